"""Starting from an image checkpoint, and refusing one of another variant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from core_models import narrow_model, shadow_weights
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from mmengine.runner import load_checkpoint
from torch import Tensor, nn

from dynperceiver import DynPerceiver
from dynperceiver.checkpoint import ImageCheckpoint, convert_to_reference, load_image_checkpoint, read_state_dict

BY_CLASSES = {  # last layers of the four exits
    'resnet18': ('0.classifier', '1.classifier', '2.classifier', '3.classifier.1'),
    'mobilenet_v3_large': ('0.classifier', '1.classifier', '2.classifier.3', '3.classifier.4'),
}
OTHER_VARIANTS: list[tuple[dict[str, Any], str]] = [
    ({'num_latents': 32}, r'32 latent tokens of 8 channels, the model 16 of 8'),
    ({'width': 0.25}, r'16 latent tokens of 16 channels, the model 16 of 8'),
    ({'depth_factors': (1, 1 / 3, 2 / 9, 1 / 3)}, r'not in the model: latent_branch\.blocks\.0\.2\.'),
    ({'depth_factors': (1 / 3, 1 / 3, 2 / 9, 1 / 3)}, r'not in the checkpoint: latent_branch\.blocks\.0\.1\.'),
    ({'x2z': False}, r'not in the checkpoint: latent_branch\.x2z\.1\.'),
    ({'z2x': False}, r'not in the checkpoint: latent_branch\.z2x\.0\.'),
    ({'dwc': False}, r'not in the checkpoint: latent_branch\.x2z\.0\.dwc\.weight'),
    ({'fkt': False}, r'not in the checkpoint: exits\.1\.fkt\.0\.weight'),
    ({'last_z2x': False}, r'not in the checkpoint: latent_branch\.last_z2x\.'),
    ({'token_mixers': False}, r'not in the checkpoint: latent_branch\.mixers\.0\.'),
]


def _other(changes: dict[str, Any], name: str = 'resnet18') -> dict[str, Tensor]:
    return {key: torch.zeros(value.shape) for key, value in shadow_weights(name, **changes).items()}


def _log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is written to the current logger from here on."""
    lines: list[str] = []
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(logger, 'log', lambda _level, message, *_args, **_kwargs: lines.append(message))
    return lines


@pytest.mark.parametrize(('changes', 'fact'), OTHER_VARIANTS, ids=lambda value: '-'.join(value) if isinstance(value, dict) else '')
@pytest.mark.parametrize('strict', [True, False])
def test_another_variant_says_value_rule_and_remedy(changes: dict[str, Any], fact: str, strict: bool) -> None:
    model = narrow_model(dtype=torch.float32)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=fact) as caught:
        model.load_state_dict(_other(changes), strict=strict)
    text = str(caught.value)
    assert 'The feature_branch, width, num_latents, depth_factors and the ablation switches must be equal' in text
    assert '; use the config that the checkpoint was trained with' in text
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), 'nothing was loaded'


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
@pytest.mark.parametrize(('changes', 'fact'), OTHER_VARIANTS[:3], ids=['latents', 'width', 'depth'])
def test_openmmlab_does_not_load_another_variant(tmp_path: Path, prefix: str, changes: dict[str, Any], fact: str) -> None:
    """Its loader only warns of what does not fit."""
    model: nn.Module = narrow_model(dtype=torch.float32)
    if prefix:
        model = nn.ModuleDict({'backbone': model})
    path = tmp_path / 'other.pth'
    torch.save({'state_dict': {prefix + key: value for key, value in _other(changes).items()}}, path)
    with pytest.raises(ValueError, match=fact):
        load_checkpoint(model, str(path), map_location='cpu', strict=False)


@pytest.mark.parametrize('prefix', ['', 'module.network.'])
def test_weights_of_something_else_are_refused(tmp_path: Path, prefix: str) -> None:
    weights = {f'{prefix}{key}': value for key, value in narrow_model('resnet18').state_dict().items()}
    weights = weights if prefix else {'fc.weight': torch.ones(2)}
    torch.save({'state_dict': weights}, tmp_path / 'other.pth')
    model = nn.ModuleDict({'backbone': narrow_model('resnet18')})
    with pytest.raises(ValueError, match=r'no key begins with backbone\.feature_branch\., .*Use a checkpoint of this config; '):
        load_checkpoint(model, str(tmp_path / 'other.pth'), map_location='cpu', strict=False)


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_openmmlab_loads_the_same_variant(tmp_path: Path, prefix: str) -> None:
    source, target = narrow_model(dtype=torch.float32), narrow_model(dtype=torch.float32)
    nn.init.zeros_(target.latent_branch.latent)
    path = tmp_path / 'same.pth'
    torch.save({'state_dict': {prefix + key: value for key, value in source.state_dict().items()}}, path)
    load_checkpoint(nn.ModuleDict({'backbone': target}) if prefix else target, str(path), map_location='cpu', strict=False)
    torch.testing.assert_close(target.state_dict(), source.state_dict())


def test_other_classes_are_told_how_to_start_from_it() -> None:
    with pytest.raises(ValueError, match=r'exits\.0\.classifier\.weight \(7, 16\) \(model: \(5, 16\)\)') as caught:
        narrow_model(dtype=torch.float32).load_state_dict(_other({'num_classes': 7}), strict=False)
    assert 'The number of classes must be equal' in str(caught.value)
    assert "init_cfg=dict(type='dynperceiver.ImageCheckpoint', checkpoint=...)" in str(caught.value)


def test_missing_exits_are_noticed() -> None:
    """A checkpoint without any exits is a backbone; one that lost some is broken."""
    model = narrow_model(dtype=torch.float32)
    weights = _other({})
    model.load_state_dict({key: value for key, value in weights.items() if not key.startswith('exits.')}, strict=False)
    with pytest.raises(ValueError, match=r'not in the checkpoint: exits\.3\.fkt'):
        model.load_state_dict({key: value for key, value in weights.items() if not key.startswith('exits.3.')}, strict=False)
    with pytest.raises(RuntimeError, match='Missing key'):
        model.load_state_dict({key: value for key, value in weights.items() if not key.startswith('exits.')})


def test_another_feature_branch() -> None:
    with pytest.raises(ValueError, match='of another variant') as caught:
        narrow_model(dtype=torch.float32).load_state_dict(_other({}, 'mobilenet_v3_large'), strict=False)
    assert ' more' in str(caught.value), 'long lists are cut'
    assert len(str(caught.value)) < 3000


def _start(model: DynPerceiver, weights: dict[str, Tensor], tmp_path: Path, **wrap: Any) -> None:
    path = tmp_path / 'image.pth'
    torch.save(wrap.get('checkpoint', {'state_dict': weights}), path)
    ImageCheckpoint(str(path))(model)


@pytest.mark.parametrize('name', ['resnet18', 'mobilenet_v3_large'])
def test_other_classes_leave_out_exactly_what_depends_on_them(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = _log(monkeypatch)
    source, target = narrow_model(name, dtype=torch.float32, num_classes=7), narrow_model(name, dtype=torch.float32)
    for parameter in source.parameters():
        nn.init.constant_(parameter, 3)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    _start(target, source.state_dict(), tmp_path)
    left_out = {f'exits.{layer}.{part}' for layer in BY_CLASSES[name] for part in ('weight', 'bias')}
    left_out |= {'exits.1.fkt.0.weight', 'exits.3.fkt.0.weight'}
    for key, value in target.state_dict().items():
        torch.testing.assert_close(value, before[key] if key in left_out else source.state_dict()[key], msg=key)
    logged = next(line for line in lines if 'left out' in line)
    assert 'image.pth: 10 tensors left out, since the number of classes differs' in logged
    assert set(logged.partition('differs: ')[2].split(', ')) == left_out


def test_fewer_classes_than_channels_and_the_other_way_round() -> None:
    """A number of classes that equals a number of channels is no reason to leave anything else out."""
    source = _other({'num_classes': 32})  # exits 2 and 4 have 32 channels from knowledge transfer
    assert len(load_image_checkpoint(narrow_model(dtype=torch.float32, num_classes=64), source)) == 10
    assert load_image_checkpoint(narrow_model(dtype=torch.float32, num_classes=32), source) == []


def test_same_classes_load_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = _log(monkeypatch)
    source, target = narrow_model(dtype=torch.float32), narrow_model(dtype=torch.float32)
    for parameter in target.parameters():
        nn.init.zeros_(parameter)
    _start(target, source.state_dict(), tmp_path)
    torch.testing.assert_close(target.state_dict(), source.state_dict())
    assert lines[-1].endswith(f'image.pth: {len(source.state_dict())} tensors loaded')
    assert not [line for line in lines if 'left out' in line]


def test_a_backbone_takes_all_but_the_exits(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = _log(monkeypatch)
    source, target = narrow_model(dtype=torch.float32), narrow_model(dtype=torch.float32, num_classes=None)
    skipped = load_image_checkpoint(target, source.state_dict())
    assert skipped == [key for key in source.state_dict() if key.startswith('exits.')]
    assert 'since the model has no exits' in lines[0]


def test_another_variant_is_no_matter_of_classes(tmp_path: Path) -> None:
    for changes in ({'num_latents': 32, 'num_classes': 7}, {'fkt': False}, {'fkt': False, 'num_classes': 7}):
        with pytest.raises(ValueError, match=r'image\.pth: the checkpoint is of another variant'):
            _start(narrow_model(dtype=torch.float32), _other(changes), tmp_path)
    with pytest.raises(ValueError, match=r'not in the model: exits\.1\.fkt'):
        _start(narrow_model(dtype=torch.float32, fkt=False), _other({}), tmp_path)


def test_checkpoints_of_the_authors_and_of_whole_recognizers(tmp_path: Path) -> None:
    source = narrow_model(dtype=torch.float32)
    weights = source.state_dict()
    reference = convert_to_reference(weights)
    recognizer = {f'backbone.{key}': value for key, value in weights.items()} | {'cls_head.fc.weight': torch.zeros(2)}
    ema = {key: value + 1 if value.is_floating_point() else value for key, value in reference.items()}
    for number, (checkpoint, added) in enumerate(
        [({'model': reference}, 0), ({'model': reference, 'model_ema': ema}, 1), ({'state_dict': recognizer, 'meta': {}}, 0), (weights, 0)]
    ):
        path = tmp_path / f'{number}.pth'
        torch.save(checkpoint, path)
        read = read_state_dict(str(path))
        assert set(read) == set(weights)
        torch.testing.assert_close(read['latent_branch.latent'], weights['latent_branch.latent'] + added)
    torch.save({'model': reference, 'model_ema': ema}, tmp_path / 'both.pth')
    torch.testing.assert_close(read_state_dict(str(tmp_path / 'both.pth'), 'model')['latent_branch.latent'], reference['latent'])


def test_missing_file() -> None:
    with pytest.raises(FileNotFoundError, match=r'checkpoint no/such/file\.pth is missing; check the path'):
        ImageCheckpoint('no/such/file.pth')(narrow_model())


def test_a_file_without_a_network(tmp_path: Path) -> None:
    torch.save({'state_dict': {'conv1.weight': torch.zeros(1)}}, tmp_path / 'resnet.pth')
    with pytest.raises(ValueError, match=r'resnet\.pth has no weights of a Dyn-Perceiver: .*first one is conv1\.weight'):
        read_state_dict(str(tmp_path / 'resnet.pth'))


def test_a_model_without_a_network(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='Linear holds no DynPerceiver'):
        ImageCheckpoint('unread.pth')(nn.Linear(1, 1))


def test_no_checkpoint_leaves_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = _log(monkeypatch)
    ImageCheckpoint(None)(nn.Linear(1, 1))
    assert lines == ['no image checkpoint given: training starts from random weights']


def test_init_cfg_of_a_model_around_the_network(tmp_path: Path) -> None:
    """The way configs use it: through MMEngine, by its name, from within a module of any project."""

    class Recognizer(BaseModule):
        def __init__(self, network: DynPerceiver, init_cfg: dict[str, Any]) -> None:
            super().__init__(init_cfg)
            self.backbone = network

    source, target = narrow_model(dtype=torch.float32), narrow_model(dtype=torch.float32)
    for parameter in target.parameters():
        nn.init.zeros_(parameter)
    torch.save({'model': convert_to_reference(source.state_dict())}, tmp_path / 'authors.pth')
    Recognizer(target, {'type': 'dynperceiver.ImageCheckpoint', 'checkpoint': str(tmp_path / 'authors.pth')}).init_weights()
    torch.testing.assert_close(target.state_dict(), source.state_dict())
