"""tools/image_demo.py on made images, with a tiny detector of MMDetection and random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

CONFIG = """\
default_scope = 'mmdet'
test_pipeline = [dict(type='mmdet.LoadImageFromFile'), dict(type='Resize', scale=(32, 32), keep_ratio=True),
                 dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
test_dataloader = dict(dataset=dict(type='RepeatDataset', times=1, dataset=dict(
    type='CocoDataset', ann_file='nowhere.json', metainfo=dict(classes=('ring', 'star')), test_mode=True, pipeline=test_pipeline)))
model = dict(
    type='RetinaNet', data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
    backbone=dict(type='ResNet', depth=18, base_channels=4, num_stages=2, out_indices=(0, 1), strides=(1, 2), dilations=(1, 1)),
    neck=dict(type='FPN', in_channels=[4, 8], out_channels={width}, num_outs=2),
    bbox_head=dict(
        type='RetinaHead', num_classes=2, in_channels={width}, feat_channels=8, stacked_convs={convs},
        anchor_generator=dict(type='AnchorGenerator', scales=[4], ratios=[1.0], strides=[4, 8]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder')),
    test_cfg=dict(nms_pre=100, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=10))
"""


class Demo:
    """Two images in a folder, a config, and a checkpoint of random weights."""

    def __init__(self, folder: Path) -> None:
        import cv2
        import torch
        from mmengine.config import Config
        from mmengine.registry import MODELS, DefaultScope

        import dynperceiver_det  # noqa: F401  makes mmdet's scope known

        self.images = folder / 'images'
        self.images.mkdir()
        for name in ('a.png', 'b.jpg'):
            cv2.imwrite(str(self.images / name), np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))
        (self.images / 'notes.txt').write_text('no image')
        self.config = folder / 'config.py'
        self.config.write_text(CONFIG.format(width=8, convs=1))
        torch.manual_seed(0)
        with DefaultScope.overwrite_default_scope('mmdet'):
            state = MODELS.build(Config.fromfile(self.config).model).state_dict()
        self.weights = folder / 'random.pth'
        torch.save(dict(state_dict=state, meta=dict(dataset_meta=dict(classes=('ring', 'star')))), self.weights)


@pytest.fixture(scope='module')
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    import mmdet.models  # noqa: F401  so that the scope's registries are there

    return Demo(tmp_path_factory.mktemp('demo'))


@pytest.fixture(autouse=True)
def _on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob('*.*')}


def test_one_image(demo: Demo, tmp_path: Path, capsys: pytest.CaptureFixture[str], call_tool: Callable[..., None]) -> None:
    import cv2

    picture = demo.images / 'a.png'
    call_tool('image_demo', picture, demo.config, '--weights', demo.weights, '--out-dir', tmp_path, '--pred-score-thr', '0')
    assert capsys.readouterr().out.endswith(f'1 image: pictures in {tmp_path}/vis, predictions in {tmp_path}/preds\n')
    assert files(tmp_path) == {'vis/a.png', 'preds/a.json'}
    drawn, plain = cv2.imread(str(tmp_path / 'vis' / 'a.png')), cv2.imread(str(picture))
    assert drawn.shape == plain.shape and (drawn != plain).any()
    prediction = json.loads((tmp_path / 'preds' / 'a.json').read_text())
    assert 0 < len(prediction['bboxes']) == len(prediction['scores']) == len(prediction['labels']) <= 10


def test_threshold_keeps_boxes_out_of_the_picture(demo: Demo, tmp_path: Path, call_tool: Callable[..., None]) -> None:
    import cv2

    picture = demo.images / 'a.png'
    call_tool('image_demo', picture, demo.config, '--weights', demo.weights, '--out-dir', tmp_path, '--pred-score-thr', '1.1')
    assert (cv2.imread(str(tmp_path / 'vis' / 'a.png')) == cv2.imread(str(picture))).all()


def test_folder_in_a_batch(demo: Demo, tmp_path: Path, capsys: pytest.CaptureFixture[str], call_tool: Callable[..., None]) -> None:
    common = [demo.images, demo.config, '--weights', demo.weights, '--batch-size', '2', '--palette', 'random', '--out-dir']
    call_tool('image_demo', *common, tmp_path / 'pictures', '--no-save-pred', '--print-result')
    printed = capsys.readouterr().out
    assert f'2 images: pictures in {tmp_path}/pictures/vis\n' in printed and "'predictions': [{'labels': [" in printed
    assert files(tmp_path / 'pictures') == {'vis/a.png', 'vis/b.jpg'}
    call_tool('image_demo', *common, tmp_path / 'none', '--no-save-pred', '--no-save-vis')
    assert capsys.readouterr().out.endswith('2 images: nothing saved\n') and not files(tmp_path / 'none')


def test_what_is_missing_or_unusable_is_one_line(demo: Demo, tmp_path: Path, call_tool: Callable[..., None]) -> None:
    picture, (empty, text, bare, wide, deep) = demo.images / 'a.png', (tmp_path / name for name in ('e', 't.png', 'b.py', 'w.py', 'd.py'))
    empty.mkdir()
    text.write_text('no image')
    bare.write_text("default_scope = 'mmdet'")
    wide.write_text(CONFIG.format(width=16, convs=1))
    deep.write_text(CONFIG.format(width=8, convs=2))
    cases = [
        ([tmp_path / 'none.jpg', demo.config, demo.weights], r'image .*none\.jpg is missing; pass an image file, a folder of images, or a'),
        ([empty, demo.config, demo.weights], r'folder .* holds no image \(\.jpg .*\); pass an image file, or a folder of images'),
        ([text, demo.config, demo.weights], r'.*t\.png cannot be read as an image; remove it, or save it again as JPEG or PNG'),
        ([picture, 'none.py', demo.weights], r'config none\.py is missing; '),
        ([picture, bare, demo.weights], r'.*b\.py has no model or no test_dataloader; pass the config'),
        ([picture, demo.config, 'none.pth'], r'checkpoint none\.pth is missing; '),
        ([picture, demo.config, text], r'.*t\.png cannot be read as a checkpoint'),
        ([picture, wide, demo.weights], r'the checkpoint is not of this config: size mismatch for neck.*, in all \d+ differences; pass as'),
        ([picture, deep, demo.weights], r'.* not of this config: bbox_head\.cls_convs\.1\.conv\.weight is absent, in all 4 differences; '),
        ([picture, demo.config, demo.weights, '--batch-size', '0'], r'--batch-size 0: pass 1 or more'),
        ([picture, demo.config, demo.weights, '--device', 'cuda:1'], r'--device cuda:1: PyTorch finds no GPU here; use --device cpu'),
    ]
    for (image, config, weights, *flags), message in cases:
        with pytest.raises(SystemExit, match=f'^error: {message}') as caught:
            call_tool('image_demo', image, config, '--weights', weights, '--out-dir', tmp_path / 'out', *flags)
        assert '\n' not in str(caught.value.code)
    assert not (tmp_path / 'out').exists()


def test_inputs_may_be_a_url_and_nothing_is_fetched_before_all_is_checked(demo: Demo, call_tool: Callable[..., None]) -> None:
    with pytest.raises(SystemExit, match=r'^error: checkpoint none\.pth is missing'):
        call_tool('image_demo', 'https://example.org/a.jpg', demo.config, '--weights', 'none.pth')
