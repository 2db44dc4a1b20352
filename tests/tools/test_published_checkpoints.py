"""tools/test.py on checkpoints as the authors publish them: their three variants, under the configs of these variants."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from core_models import fill, load_golden, shadow_model
from PIL import Image
from tool_runs import ROOT
from torch import Tensor

from dynperceiver.checkpoint import convert_from_reference, save_state_dict

pytestmark = pytest.mark.parity
CONFIGS = {
    'resnet50_x0375': 'dynperceiver-r50x0.375_8xb128_in1k.py',
    'regnet_y_800mf': 'dynperceiver-regnety-800mf_8xb128_in1k.py',
    'mobilenet_v3_large_x075': 'dynperceiver-mobilenetv3-0.75_8xb128_in1k.py',
}
SMALLEST = 'mobilenet_v3_large_x075'
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LABELS = (3, 997)

# The published config with two images for ImageNet, and with the hook in it, whatever else it has.
LEAF = """\
_base_ = ['{config}']
custom_imports = dict(imports=['dynperceiver_cls', 'quick_layout'], allow_failed_imports=False)
custom_hooks = [*_base_.custom_hooks, dict(type='dynperceiver.ReferenceCheckpointHook')]
images = dict(data_root='{data}', split='val', ann_file='meta/val.txt')
test_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=images)
train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=images)
test_evaluator = dict(_delete_=True, type='dynperceiver.MultiExitAccuracy')
"""


class Published(NamedTuple):
    name: str
    config: Path
    averaged: Path  # the authors' file with two sets of weights, of which the other is nothing but zeros
    weights: dict[str, Tensor]  # under their names
    images: Tensor  # as the network takes them


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensor]:
    """Two images of 256 x 256 pixels, of which a test takes the centre; their folder, and what the network should get."""
    root = tmp_path_factory.mktemp('imagenet')
    (root / 'val').mkdir()
    (root / 'meta').mkdir()
    pixels_BHWC = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    for number, pixels in enumerate(pixels_BHWC):
        Image.fromarray(pixels).save(root / 'val' / f'{number}.png')
    (root / 'meta' / 'val.txt').write_text(''.join(f'{number}.png {label}\n' for number, label in enumerate(LABELS)))
    images_BHWC = (pixels_BHWC[:, 16:240, 16:240] / 255 - MEAN) / STD
    return root, torch.from_numpy(images_BHWC).permute(0, 3, 1, 2).float()


@pytest.fixture(scope='module')
def published(request: pytest.FixtureRequest, data: tuple[Path, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Published:
    name, (root, images) = request.param, data
    folder = tmp_path_factory.mktemp(name)
    reference = fill(load_golden(name)['shapes'])
    weights = {key: value.float() if value.is_floating_point() else value for key, value in reference.items()}
    zeros = {key: torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in weights.items()}
    torch.save({'model': zeros, 'model_ema': weights, 'epoch': 299, 'optimizer': {'state': {}, 'param_groups': []}}, folder / 'authors.pth')
    config = folder / 'leaf.py'
    config.write_text(LEAF.format(config=ROOT / 'configs' / 'classification' / CONFIGS[name], data=root))
    return Published(name, config, folder / 'authors.pth', weights, images)


def expected_scores(published: Published) -> Tensor:
    """Of the network itself with converted weights, shape (2, exits, classes)."""
    model = shadow_model(**load_golden(published.name)['variant'])
    model.load_state_dict(convert_from_reference(published.weights), assign=True)
    with torch.no_grad():
        return torch.stack(model.eval()(published.images), 1).softmax(-1)


def run(call_tool: Callable[..., None], published: Published, checkpoint: Path, work_dir: Path) -> tuple[Tensor, list[dict[str, Any]], str]:
    """Scores, samples and log of a test by the tool."""
    kept = ['--out', work_dir / 'kept.pkl', '--show-dir', work_dir / 'pictures']
    call_tool('test', published.config, checkpoint, '--work-dir', work_dir, *kept)
    with open(work_dir / 'kept.pkl', 'rb') as file:
        samples = pickle.load(file)
    (log,) = work_dir.glob('*/*.log')
    return torch.stack([sample['exit_scores'] for sample in samples]), samples, log.read_text()


@pytest.mark.parametrize('published', CONFIGS, indirect=True)
def test_published_files_are_tested_as_they_are(
    published: Published, call_tool: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = expected_scores(published)
    assert expected.shape == (2, 4, 1000) and expected.amax(-1).min() > 0.002, 'no exit says nothing'
    scores, samples, log = run(call_tool, published, published.averaged, tmp_path)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-6)
    assert [sample['gt_label'] for sample in samples] == list(LABELS)
    assert len(re.findall(r'converted on the fly', log)) == 1
    (line,) = [line for line in log.splitlines() if 'converted on the fly' in line]
    assert f"{published.averaged}: the authors' weights under model_ema (it also has model, " in line
    assert line.endswith(f', {len(published.weights)} tensors, converted on the fly into backbone of the model')
    assert 'do not match exactly' not in capsys.readouterr().out
    pictures = sorted((tmp_path / 'pictures').iterdir())
    assert [path.name for path in pictures] == ['000000_0.png', '000001_1.png']
    drawn = np.asarray(Image.open(pictures[1]))[:224, :224] / 255
    np.testing.assert_allclose((drawn - MEAN) / STD, published.images[1].permute(1, 2, 0), atol=1e-5)


@pytest.mark.parametrize('published', [SMALLEST], indirect=True)
def test_so_is_a_file_that_was_converted_before(published: Published, call_tool: Callable[..., None], tmp_path: Path) -> None:
    """As tools/convert_checkpoint.py leaves it: a bare network under our names."""
    save_state_dict(convert_from_reference(published.weights), tmp_path / 'ours.pth')
    scores, _, log = run(call_tool, published, tmp_path / 'ours.pth', tmp_path / 'work')
    torch.testing.assert_close(scores, expected_scores(published), rtol=1e-4, atol=1e-6)
    assert 'ours.pth: the weights of a bare network' in log


@pytest.mark.parametrize('published', [SMALLEST], indirect=True)
def test_another_variants_file_ends_with_one_line(published: Published, call_tool: Callable[..., None], tmp_path: Path) -> None:
    other = ROOT / 'configs' / 'classification' / CONFIGS['resnet50_x0375']
    config = published.config.with_name('other.py')
    config.write_text(published.config.read_text().replace(CONFIGS[published.name], other.name))
    with pytest.raises(SystemExit) as caught:
        call_tool('test', config, published.averaged, '--work-dir', tmp_path)
    text = str(caught.value)
    assert text.startswith(f'error: {published.averaged}: the checkpoint is of another variant than the model: ')
    assert 'must be equal; use the config that the checkpoint was trained with' in text and '\n' not in text


@pytest.mark.parametrize('published', [SMALLEST], indirect=True)
@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'<!DOCTYPE html><p>Sign in', r'cannot be read as a checkpoint \(it is a web page'),
        (None, r'cannot be read as a checkpoint \(RuntimeError: PytorchStreamReader failed .*download or copy it again$'),
    ],
    ids=['web page', 'truncated'],
)
def test_broken_files_end_with_one_line(
    published: Published, call_tool: Callable[..., None], tmp_path: Path, content: bytes | None, message: str
) -> None:
    (tmp_path / 'broken.pth').write_bytes(content or published.averaged.read_bytes()[:100_000])
    with pytest.raises(SystemExit, match=rf'^error: {tmp_path}/broken\.pth {message}'):
        call_tool('test', published.config, tmp_path / 'broken.pth', '--work-dir', tmp_path / 'work')
