"""Early exits in the feature branch, the comparison of the paper's Table 2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from core_models import DEPTHS, narrow_model, narrow_shadow, standard_normal
from silent_parameters import assert_all_but_silent_learn
from torch import Tensor, nn

from dynperceiver import DynPerceiver, NetworkState, build_model
from dynperceiver.analysis import count_exit_costs
from dynperceiver.checkpoint import ImageCheckpoint, convert_to_reference

BRANCHES = ('resnet18', 'mobilenet_v3_large')
IMAGES = (3, 3, 64, 96)
NAMES = {f'exits.{i}.classifier.': f'exits.{i}.feature_classifier.' for i in (0, 1)}

each_branch = pytest.mark.parametrize('name', BRANCHES)


def _renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a network with exits in the latent branch, by the names of one with exits in the feature branch."""
    return {next((key.replace(a, b) for a, b in NAMES.items() if key.startswith(a)), key): value for key, value in weights.items()}


def _twins(name: str = 'resnet18', **changes: Any) -> tuple[DynPerceiver, DynPerceiver]:
    """Two networks with the same weights, whose early exits stand in the latent branch and in the feature branch."""
    latent = narrow_model(name, **changes)
    feature = narrow_shadow(name, early_exits='feature', **changes)
    feature.load_state_dict(_renamed(latent.state_dict()), assign=True)
    return latent, feature.requires_grad_(True).eval()


@torch.no_grad()
@each_branch
@pytest.mark.parametrize('fkt', [True, False])
def test_exits_1_and_2_read_the_pooled_maps_x2_and_x3(name: str, fkt: bool) -> None:
    _, model = _twins(name, fkt=fkt)
    images = standard_normal(IMAGES)
    maps = model.pyramid(images)
    first, second = model.exits[0].feature_classifier, model.exits[1].feature_classifier
    exit1 = maps[1].mean((2, 3)) @ first.weight.T + first.bias
    pooled = maps[2].mean((2, 3))
    if fkt:
        linear, norm, _ = model.exits[1].fkt
        hidden = exit1 @ linear.weight.T + linear.bias
        hidden = (hidden - norm.running_mean) / torch.sqrt(norm.running_var + norm.eps) * norm.weight + norm.bias
        pooled = torch.cat((pooled, hidden.clamp(min=0)), 1)
    exit2 = pooled @ second.weight.T + second.bias
    logits = model(images)
    assert exit1.std() > 1e-3 and exit2.std() > 1e-3
    torch.testing.assert_close(logits[0], exit1, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(logits[1], exit2, rtol=1e-10, atol=1e-10)


@torch.no_grad()
@each_branch
def test_exits_3_and_4_change_through_knowledge_transfer_alone(name: str) -> None:
    images = standard_normal(IMAGES)
    for fkt in (True, False):
        latent, feature = (model(images) for model in _twins(name, fkt=fkt))
        assert not torch.allclose(latent[0], feature[0], atol=1e-3)
        assert not torch.allclose(latent[1], feature[1], atol=1e-3)
        torch.testing.assert_close(latent[2], feature[2], rtol=0, atol=0)
        assert torch.equal(latent[3], feature[3]) == (not fkt)


@torch.no_grad()
def test_the_latent_code_reaches_exit_1_through_the_feature_map_alone() -> None:
    _, model = _twins(z2x=False)
    before = model(standard_normal(IMAGES))
    model.latent_branch.latent.add_(1)
    after = model(standard_normal(IMAGES))
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, True, True, False]


@each_branch
def test_size_and_cost_are_the_same(name: str) -> None:
    latent, feature = (narrow_shadow(name, early_exits=branch) for branch in ('latent', 'feature'))
    assert {key: value.shape for key, value in _renamed(latent.state_dict()).items()} == {
        key: value.shape for key, value in feature.state_dict().items()
    }
    assert count_exit_costs(latent, 64, 64) == count_exit_costs(feature, 64, 64)


@each_branch
def test_every_parameter_gets_a_gradient(name: str) -> None:
    """But for biases that LayerNorms take out again; see ``test_gradients.py``. That of stage 3 goes to no exit here."""
    silent = {f'latent_branch.blocks.{i}.{DEPTHS[i] - 1}.mlp.fc2.bias' for i in (0, 1, 2)}
    silent |= {f'latent_branch.mixers.{i}.{layer}.bias' for i in (0, 1, 2) for layer in (0, 1)}
    _, model = _twins(name)
    logits = model(standard_normal((4, 3, 64, 64)))
    sum(nn.functional.cross_entropy(exit_logits, torch.arange(4)) for exit_logits in logits).backward()
    assert_all_but_silent_learn(model, silent)


@torch.no_grad()
def test_nothing_runs_before_it_is_asked_for() -> None:
    _, model = _twins()
    ran: list[str] = []
    watched = {f'stage{i}': stage for i, stage in enumerate(model.feature_branch.stages, 1)}
    watched |= {f'latent{i}': blocks for i, blocks in enumerate(model.latent_branch.blocks, 1)}
    watched |= {f'exit{k}': head for k, head in enumerate(model.exits, 1)}
    for name, module in watched.items():
        module.register_forward_hook(lambda _module, _args, _output, name=name: ran.append(name))
    loop = model.run(model.start(standard_normal(IMAGES)))
    expected = [
        ['latent1', 'stage1', 'latent2', 'stage2', 'latent3', 'exit1'],
        ['stage3', 'latent4', 'exit2'],
        ['stage4', 'exit3'],
        ['exit4'],
    ]
    for names in expected:
        next(loop)
        assert ran == names
        ran.clear()


@torch.no_grad()
@each_branch
@pytest.mark.parametrize('after', [1, 2, 3])
def test_going_on_with_some_samples_equals_their_rows(name: str, after: int) -> None:
    _, model = _twins(name)
    whole = model(standard_normal(IMAGES))
    kept = torch.tensor([2, 0])
    state: NetworkState | Tensor = standard_normal(IMAGES)
    for segment in model.segments[:after]:
        _, state = segment(state)
    state = state.select(kept)
    for k, segment in enumerate(model.segments[after:], after):
        logits, state = segment(state)
        torch.testing.assert_close(logits, whole[k][kept], rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_clips_average_their_frames() -> None:
    frames = 2
    _, model = _twins(num_frames=frames)
    images = standard_normal((4, 3, 64, 64))
    classifier = model.exits[0].feature_classifier
    expected = model.pyramid(images)[1].mean((2, 3)) @ classifier.weight.T + classifier.bias
    torch.testing.assert_close(model(images)[0], expected.unflatten(0, (2, frames)).mean(1))


@pytest.mark.parametrize('strict', [True, False])
@pytest.mark.parametrize('to', ['latent', 'feature'])
def test_checkpoints_do_not_load_across(to: str, strict: bool) -> None:
    latent, feature = _twins()
    given, model = (feature, latent) if to == 'latent' else (latent, feature)
    own = {'latent': 'exits.0.classifier.weight', 'feature': 'exits.0.feature_classifier.weight'}
    with pytest.raises(ValueError, match='of another variant than the model: ') as caught:
        model.load_state_dict(given.state_dict(), strict=strict)
    other = 'feature' if to == 'latent' else 'latent'
    assert f'not in the model: {own[other]}' in str(caught.value)
    assert 'the ablation switches must be equal; use the config' in str(caught.value)


def test_an_incomplete_checkpoint_is_refused() -> None:
    _, model = _twins()
    weights = {key: value for key, value in model.state_dict().items() if not key.startswith('exits.3.')}
    with pytest.raises(ValueError, match=r'not in the checkpoint: exits\.3\.'):
        model.load_state_dict(weights, strict=False)


@pytest.mark.parametrize('num_classes', [5, 7])
def test_an_image_checkpoint_of_the_same_variant_is_taken(num_classes: int, tmp_path: Path) -> None:
    _, source = _twins()
    torch.save({'state_dict': source.state_dict()}, tmp_path / 'image.pth')
    model = build_model(
        'resnet18',
        width=0.125,
        num_latents=16,
        depth_factors=tuple(depth / base for depth, base in zip(DEPTHS, (3, 3, 9, 3), strict=True)),
        num_classes=num_classes,
        early_exits='feature',
    )
    ImageCheckpoint(str(tmp_path / 'image.pth'))(model)
    for key, value in model.state_dict().items():
        same = value.shape == source.state_dict()[key].shape
        assert same or key.startswith('exits.'), key
        assert not same or torch.equal(value, source.state_dict()[key].to(value.dtype)), key
    assert torch.equal(model.exits[1].fkt[1].weight, source.exits[1].fkt[1].weight.float())


def test_the_authors_files_have_no_such_exits() -> None:
    _, model = _twins()
    with pytest.raises(ValueError, match=r"keys are not among our names: exits\.0\.feature_classifier\.weight"):
        convert_to_reference(model.state_dict())


def test_another_branch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"early_exits='pixel': choose what .* classify, 'latent', 'feature', 'joined', 'probe'; to train"):
        narrow_shadow('resnet18', early_exits='pixel')
