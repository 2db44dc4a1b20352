"""tools/test.py on published weights out of a package: no checkpoint file, no training."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tool_runs import ROOT

from dynperceiver import build_static_trunk
from dynperceiver.checkpoint import PRETRAINED, read_state_dict

LITE0 = 'efficientnet_lite0'
pytestmark = pytest.mark.skipif(
    not any(metadata.distributions(name=PRETRAINED[LITE0].package)), reason=f'needs the weights: {PRETRAINED[LITE0].remedy}'
)

# The config with two images for ImageNet.
LEAF = """\
_base_ = ['{config}']
images = dict(data_root='{data}', split='val', ann_file='meta/val.txt')
test_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=images)
train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=images)
test_evaluator = dict(_delete_=True, type='dynperceiver.MultiExitAccuracy')
"""


def test_published_weights_are_tested_without_a_file(call_tool: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / 'val').mkdir()
    (tmp_path / 'meta').mkdir()
    pixels_BHWC = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    for number, pixels in enumerate(pixels_BHWC):
        Image.fromarray(pixels).save(tmp_path / 'val' / f'{number}.png')
    (tmp_path / 'meta' / 'val.txt').write_text('0.png 3\n1.png 997\n')
    config = ROOT / 'configs' / 'classification' / 'efficientnet-lite0_in1k.py'
    (tmp_path / 'leaf.py').write_text(LEAF.format(config=config, data=tmp_path))
    call_tool('test', tmp_path / 'leaf.py', f'pretrained://{LITE0}', '--work-dir', tmp_path / 'runs', '--out', tmp_path / 'kept.pkl')
    samples = pickle.loads((tmp_path / 'kept.pkl').read_bytes())

    trunk = build_static_trunk(LITE0).eval()
    trunk.load_state_dict(read_state_dict(f'pretrained://{LITE0}'))
    images = torch.from_numpy((pixels_BHWC[:, 16:240, 16:240].astype(np.float32) - 127) / 128).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = torch.stack(trunk(images), 1).softmax(-1)
    torch.testing.assert_close(torch.stack([sample['exit_scores'] for sample in samples]), expected, rtol=1e-4, atol=1e-6)
