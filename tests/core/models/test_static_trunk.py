"""The feature branch with a classifier and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from core_models import NARROW_WIDTHS, narrow_model, shadow_weights, standard_normal
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint
from torch import Tensor, nn

from dynperceiver import build_model, build_static_trunk
from dynperceiver.checkpoint import ImageCheckpoint
from dynperceiver.feature_branches import FEATURE_BRANCHES
from dynperceiver.models import StaticTrunk

BRANCHES = ('resnet18', 'regnet_y_400mf', 'mobilenet_v3_large')
IMAGES = (2, 3, 64, 96)


def _trunk(name: str = 'resnet18', **changes: Any) -> StaticTrunk:
    return build_static_trunk(name, **{'width': NARROW_WIDTHS.get(name, 1.0), 'num_classes': 5, **changes})


def _from_dynperceiver(name: str) -> tuple[StaticTrunk, Any]:
    """A trunk with the weights of a Dyn-Perceiver's feature branch and exit 3, and that network."""
    whole = narrow_model(name)
    trunk = _trunk(name).double().eval()
    trunk.feature_branch.load_state_dict(whole.feature_branch.state_dict())
    trunk.exits[0].load_state_dict(whole.exits[2].state_dict())
    return trunk, whole


@torch.no_grad()
@pytest.mark.parametrize('name', BRANCHES)
def test_its_exit_is_exit_3_of_a_dynperceiver_that_writes_nothing_to_the_features(name: str) -> None:
    trunk, whole = _from_dynperceiver(name)
    network = narrow_model(name, z2x=False)
    network.load_state_dict({key: value for key, value in whole.state_dict().items() if '.z2x.' not in key})
    (logits,) = trunk(standard_normal(IMAGES))
    assert logits.shape == (2, 5) and logits.std() > 1e-3
    torch.testing.assert_close(logits, network(standard_normal(IMAGES))[2], rtol=1e-10, atol=1e-10)
    assert not torch.allclose(logits, whole(standard_normal(IMAGES))[2]), 'with Z2X the features differ'


@pytest.mark.parametrize('name', FEATURE_BRANCHES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    trunk = _trunk(name).train()
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # a residual branch may start at zero
    (logits,) = trunk(torch.randn(4, 3, 64, 64))
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    assert not [key for key, value in trunk.named_parameters() if value.grad is None or not value.grad.any()]


@pytest.mark.parametrize('name', BRANCHES)
def test_its_parameters_are_those_of_the_branch_and_of_exit_3(name: str) -> None:
    own = {key: value.shape for key, value in _trunk(name).state_dict().items()}
    whole = {key: value.shape for key, value in shadow_weights(name).items()}
    branch = {key: shape for key, shape in whole.items() if key.startswith('feature_branch.')}
    head = {key.replace('exits.2.', 'exits.0.'): shape for key, shape in whole.items() if key.startswith('exits.2.')}
    assert own == {**branch, **head}


def test_classifiers_start_as_those_of_the_network() -> None:
    torch.manual_seed(3)
    head = _trunk(width=1.0, num_classes=200).exits[0].classifier
    assert not head.bias.any()
    assert head.weight.std().item() == pytest.approx(0.02, rel=0.03)


@pytest.mark.parametrize(('name', 'dropout'), [('resnet18', 0.5), ('mobilenet_v3_large', 0.5), ('resnet18', 0.0)])
def test_dropout_stands_before_the_last_linear(name: str, dropout: float) -> None:
    layers = [layer for layer in _trunk(name, dropout=dropout).exits.modules() if isinstance(layer, nn.Dropout) and layer.p]
    assert [layer.p for layer in layers] == ([dropout] if dropout else [])
    trunk = _trunk(name, dropout=dropout).train()
    features = torch.randn(2, trunk.feature_branch.channels[4], 2, 2)
    assert torch.equal(trunk.exits[0](features), trunk.exits[0](features)) == (not dropout)


def test_drop_path_reaches_the_branch() -> None:
    trunk = _trunk(drop_path=0.5).train()
    nn.init.ones_(trunk.feature_branch.stages[3][1].bn2.weight)
    features = torch.randn(64, trunk.feature_branch.channels[3], 2, 2)
    stage = trunk.feature_branch.stages[3]
    assert not torch.equal(stage(features), stage(features))
    assert torch.equal(stage.eval()(features), stage(features))


def test_registered_by_name() -> None:
    trunk = MODELS.build(dict(type='dynperceiver.StaticTrunk', feature_branch='resnet18', width=0.125, num_classes=7))
    assert isinstance(trunk, StaticTrunk)
    assert (trunk.num_classes, trunk.num_frames, trunk(torch.randn(2, 3, 32, 32))[0].shape) == (7, 1, (2, 7))


@pytest.mark.parametrize(
    ('changes', 'text'),
    [
        ({'num_classes': 0}, r'num_classes=0: pass the number of classes, at least 1'),
        ({'feature_branch': 'resnet51'}, r"feature_branch='resnet51' is unknown; did you mean resnet50"),
        ({'width': 0.3}, r'width=0\.3 for resnet18: .*multiple of 0\.125'),
    ],
)
def test_wrong_numbers(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build_static_trunk(**{'feature_branch': 'resnet18', 'num_classes': 5, **changes})


def _saved(path: Path, model: nn.Module) -> str:
    torch.save({'state_dict': {f'backbone.{key}': value for key, value in model.state_dict().items()}}, path)
    return str(path)


def _wrapped(network: nn.Module) -> nn.Module:
    return nn.ModuleDict({'backbone': network})


@pytest.mark.parametrize('name', BRANCHES)
def test_a_checkpoint_of_a_dynperceiver_is_refused(name: str, tmp_path: Path) -> None:
    """MMEngine loads with ``strict=False`` and would leave the classifier random."""
    trunk = _trunk(name)
    before = {key: value.clone() for key, value in trunk.state_dict().items()}
    with pytest.raises(ValueError, match='the checkpoint is of another variant than the model: ') as caught:
        load_checkpoint(_wrapped(trunk), _saved(tmp_path / 'whole.pth', narrow_model(name)), map_location='cpu')
    assert 'not in the model: latent_branch.latent' in str(caught.value)
    assert '; use the config that the checkpoint was trained with' in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in trunk.state_dict().items())


@pytest.mark.parametrize('name', BRANCHES)
def test_its_checkpoint_is_refused_by_a_dynperceiver(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'another variant than the model: .*not in the checkpoint: latent_branch\.latent'):
        load_checkpoint(_wrapped(narrow_model(name)), _saved(tmp_path / 'trunk.pth', _trunk(name)), map_location='cpu')


def test_other_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'exits\.0\.classifier\.weight \(5, 64\) \(model: \(6, 64\)\).*number of classes must be equal'):
        load_checkpoint(_wrapped(_trunk(num_classes=6)), _saved(tmp_path / 'trunk.pth', _trunk()), map_location='cpu')


@pytest.mark.parametrize('name', BRANCHES)
def test_its_own_checkpoint_is_loaded(name: str, tmp_path: Path) -> None:
    source, trunk = _trunk(name), _trunk(name)
    images: Tensor = torch.randn(1, 3, 32, 32)
    load_checkpoint(_wrapped(trunk), _saved(tmp_path / 'trunk.pth', source), map_location='cpu')
    assert torch.equal(trunk.eval()(images)[0], source.eval()(images)[0])


@pytest.mark.parametrize('name', BRANCHES)
def test_an_image_checkpoint_fills_its_feature_branch(name: str, tmp_path: Path) -> None:
    whole, trunk = narrow_model(name, dtype=torch.float32), _trunk(name)
    head = {key: value.clone() for key, value in trunk.exits.state_dict().items()}
    ImageCheckpoint(_saved(tmp_path / 'whole.pth', whole))(_wrapped(trunk))
    expected = whole.feature_branch.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in trunk.feature_branch.state_dict().items())
    assert all(torch.equal(value, head[key]) for key, value in trunk.exits.state_dict().items()), 'its classifier is its own'


def test_an_image_checkpoint_of_another_width_is_refused(tmp_path: Path) -> None:
    path = _saved(tmp_path / 'whole.pth', narrow_model('resnet18'))
    with pytest.raises(ValueError, match=r'whole\.pth: the checkpoint is of another feature branch or width'):
        ImageCheckpoint(path)(_wrapped(_trunk(width=0.25)))


def test_a_trunk_with_several_frames_is_an_image_model() -> None:
    """A video trunk would need averaging over frames, which it does not have."""
    with pytest.raises(TypeError, match='num_frames'):
        build_static_trunk('resnet18', num_frames=8)  # type: ignore[call-arg]
    assert build_model('resnet18', width=0.125, num_latents=8, depth_factors=(1, 1, 1, 1), num_frames=8).num_frames == 8
