"""The config that docs/classification.md shows for one's own project trains from an image checkpoint, whatever the default scope is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

import dynperceiver

DOCS = Path(__file__).parents[2] / 'docs' / 'classification.md'


def documented_config() -> str:
    blocks = re.findall(r'```python\n(.*?)```', DOCS.read_text(), re.DOTALL)
    (block,) = [block for block in blocks if 'custom_imports' in block]
    return str(block)


@pytest.mark.parametrize('scope', ['mmengine', 'mmdet'])
def test_it_trains_from_an_image_checkpoint(tmp_path: Path, scope: str) -> None:
    for number in range(10):
        path = tmp_path / 'images' / 'train' / 'abcde'[number % 5] / f'{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((48, 40), 20 * number + 1).convert('RGB').save(path)
    torch.manual_seed(3)
    text = documented_config()
    image_model = dynperceiver.build_model(
        'mobilenet_v3_large', width=0.75, num_latents=128, depth_factors=(1, 1, 1, 3), num_classes=7, dropout=0.2
    )
    torch.save({'state_dict': image_model.state_dict()}, tmp_path / 'image.pth')
    text = text.replace('PATH/OF/AN/IMAGE_CHECKPOINT.pth', str(tmp_path / 'image.pth')).replace("'PATH'", repr(str(tmp_path / 'images')))
    assert 'PATH' not in text.replace(str(tmp_path), '')
    cfg = Config.fromstring(text, '.py')
    pipeline = [dict(step, size=32) if 'size' in step else step for step in cfg.train_dataloader.dataset.pipeline]
    dataset = dict(cfg.train_dataloader.dataset, pipeline=pipeline)
    runner = Runner(
        cfg.model,
        str(tmp_path / 'work'),
        train_dataloader=dict(cfg.train_dataloader, batch_size=10, num_workers=0, dataset=dataset),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01)),
        default_scope=scope,
        experiment_name=f'{tmp_path.name}_{scope}',
    )
    runner.train()
    assert runner.iter == 1 and runner.train_dataloader.dataset.metainfo['classes'] == tuple('abcde')
    trained, image = runner.model.backbone.state_dict(), image_model.state_dict()
    assert trained['exits.0.classifier.bias'].shape == (5,)
    stem = 'feature_branch.stem.0.0.weight'
    difference = (trained[stem] - image[stem]).abs().max()
    assert 0 < difference < 0.1 * image[stem].abs().max(), 'one small step from the checkpoint'
