"""A project that is there already, with a config of MMDetection's, needs ten lines: those of docs/detection.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from silent_parameters import silent_parameters
from tiny_detection import CLASSES, HEIGHT, WIDTH, make_photos
from tool_runs import ROOT, keep_layout, scalars

import dynperceiver

BASE = "_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'"

# Nothing but where the data is, its classes, and sizes.
SMALL = """
_base_ = ['{own}']
metainfo = dict(classes={classes})
model = dict(
    roi_head=dict(bbox_head=dict(num_classes={num_classes})),
    train_cfg=dict(rpn_proposal=dict(max_per_img=50)), test_cfg=dict(rpn=dict(max_per_img=20), rcnn=dict(score_thr=0.0)))
train_pipeline = [dict(step, scale=({width}, {height})) if 'scale' in step else step for step in _base_.train_pipeline]
test_pipeline = [dict(step, scale=({width}, {height})) if 'scale' in step else step for step in _base_.test_pipeline]
files = dict(data_root='{data}/', data_prefix=dict(img='images/'), metainfo=metainfo)
workers = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(**workers, dataset=dict(ann_file='train.json', pipeline=train_pipeline, indices=2, **files))
val_dataloader = dict(**workers, dataset=dict(ann_file='val.json', pipeline=test_pipeline, **files))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='{data}/val.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1)
param_scheduler = []
work_dir = '{work_dir}'
visualizer = dict(name='{work_dir}')
"""


def documented_config() -> str:
    """The one block of docs/detection.md that starts from MMDetection's own config."""
    blocks = re.findall(r'```python\n(.*?)```', (ROOT / 'docs' / 'detection.md').read_text(), re.DOTALL)
    (block,) = [block for block in blocks if BASE in block]
    return str(block)


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Runner of the documented config with an image checkpoint, on small photos."""
    keep_layout(monkeypatch)
    block = documented_config()
    keys = re.search(r'feature_branch=.*?depth_factors=\([^)]*\)', block, re.DOTALL)
    assert keys is not None
    torch.manual_seed(3)
    image_model = dynperceiver.build_model(**eval(f'dict({keys[0]})'), num_classes=7)
    torch.save({'state_dict': image_model.state_dict()}, tmp_path / 'image.pth')
    (tmp_path / 'own.py').write_text(re.sub(r"checkpoint='[^']*'", f"checkpoint='{tmp_path / 'image.pth'}'", block))
    words = dict(own=tmp_path / 'own.py', data=make_photos(tmp_path / 'data', num_train=2, num_val=1), work_dir=tmp_path / 'work')
    small = SMALL.format(**words, classes=CLASSES, num_classes=len(CLASSES), height=HEIGHT, width=WIDTH)
    (tmp_path / 'small.py').write_text(small)
    return Runner.from_cfg(Config.fromfile(tmp_path / 'small.py'))


def test_ten_lines_are_enough() -> None:
    lines = [line for line in documented_config().splitlines() if line.strip() and not line.lstrip().startswith('#')]
    assert lines[0] == BASE
    assert len(lines) - 1 <= 10


def test_it_trains_from_an_image_checkpoint(runner: Runner, tmp_path: Path) -> None:
    runner.train()
    assert runner.iter == 1
    trained = runner.model.backbone.network.state_dict()
    image = torch.load(tmp_path / 'image.pth', weights_only=True)['state_dict']
    changed = {name for name, tensor in trained.items() if not torch.equal(tensor, image[name])}
    learning = {name for name, parameter in runner.model.backbone.network.named_parameters() if parameter.requires_grad}
    silent = silent_parameters(runner.model.backbone.network)
    assert learning - silent <= changed <= learning  # what is frozen, and statistics of norms, are as they were in the checkpoint
    assert any(name.startswith('feature_branch.stages.0.') for name in trained.keys() - learning)
    assert 'coco/bbox_mAP' in scalars(tmp_path / 'work')[-1]
    assert type(runner.val_dataloader.dataset).__module__.startswith('mmdet.')
    channels = [lateral.conv.in_channels for lateral in runner.model.neck.lateral_convs]
    assert channels == list(runner.model.backbone.out_channels)
