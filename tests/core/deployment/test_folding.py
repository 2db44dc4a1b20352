"""The folded network: the same logits, with less to compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from core_models import SWITCHES, narrow_model, standard_normal
from torch import Tensor, nn

from dynperceiver import build_model, build_static_trunk
from dynperceiver.deployment import folded_layers
from dynperceiver.deployment.folding import fold
from dynperceiver.feature_branches import FEATURE_BRANCHES

FOLDED_SIZE = (112, 112)  # every map of every family has sides that 7 divides, or an equal one beside it


def _assert_same(model: nn.Module, folded: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        expected, got = model(images), folded(images)
    assert len(got) == len(expected)
    for logits, reference in zip(got, expected, strict=True):
        torch.testing.assert_close(logits, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('name', FEATURE_BRANCHES)
def test_every_family(name: str) -> None:
    model = narrow_model(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = fold(model, FOLDED_SIZE)
    _assert_same(model, folded, standard_normal((2, 3, *FOLDED_SIZE)))
    assert not [module for module in folded.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize('switch', SWITCHES)
def test_every_ablation(switch: str) -> None:
    model = narrow_model(**{switch: False})
    _assert_same(model, fold(model, FOLDED_SIZE), standard_normal((1, 3, *FOLDED_SIZE)))


def test_a_model_in_training_is_folded_for_evaluation() -> None:
    model = narrow_model(dropout=0.2, drop_path=0.2)
    folded = fold(model.train(), FOLDED_SIZE)
    assert model.training and not folded.training
    _assert_same(model.eval(), folded, standard_normal((1, 3, *FOLDED_SIZE)))


def test_exits_on_the_feature_branch() -> None:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {'num_latents': 8, 'depth_factors': (1 / 3, 1 / 3, 1 / 9, 1 / 3), 'num_classes': 3}
    model = build_model('resnet18', width=0.125, early_exits='feature', **arguments).double().eval()
    _assert_same(model, fold(model, FOLDED_SIZE), standard_normal((1, 3, *FOLDED_SIZE)))


@pytest.mark.parametrize('shift', ['bidirectional', 'unidirectional'])
def test_clips(shift: str) -> None:
    model = narrow_model(num_frames=3, temporal_shift=shift)
    _assert_same(model, fold(model, FOLDED_SIZE), standard_normal((6, 3, *FOLDED_SIZE)))


@pytest.mark.parametrize('size', [(64, 64), (70, 97), (112, 224)])
def test_other_sizes_than_the_one_folded_for(size: tuple[int, int]) -> None:
    model = narrow_model()
    images = standard_normal((1, 3, *size))
    _assert_same(model, fold(model, FOLDED_SIZE), images)
    _assert_same(model, fold(model, size), images)


def test_static_trunk() -> None:
    trunk = build_static_trunk('resnet18', width=0.125, num_classes=3).double().eval()
    with torch.no_grad():
        for name, tensor in trunk.named_buffers():
            if 'running' in name:
                tensor.copy_(standard_normal(tuple(tensor.shape)).abs() + 0.5)
    folded = fold(trunk, FOLDED_SIZE)
    _assert_same(trunk, folded, standard_normal((2, 3, *FOLDED_SIZE)))
    assert not [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]


def test_a_narrow_strided_convolution_keeps_its_bias() -> None:
    """It computes by hand, and has no bias before folding."""
    model = narrow_model(width=0.125)
    folded = fold(model, FOLDED_SIZE)
    convolution = folded.feature_branch.stages[1][0].downsample[0]
    assert type(convolution) is not nn.Conv2d and convolution.bias.abs().max() > 0
    images = standard_normal((1, convolution.in_channels, 8, 8))
    plain = F.conv2d(images, convolution.weight, convolution.bias, stride=2)
    torch.testing.assert_close(convolution(images), plain)


def test_the_summary_is_one_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    model = narrow_model()
    folded = fold(model, FOLDED_SIZE)

    def refuse(*args: Any) -> Tensor:
        raise AssertionError('the map was summarised in the long way')

    monkeypatch.setattr(F, 'adaptive_avg_pool2d', refuse)
    with torch.no_grad():
        folded(standard_normal((1, 3, *FOLDED_SIZE)))
        with pytest.raises(AssertionError, match='long way'):
            folded(standard_normal((1, 3, 64, 64)))


def test_the_first_query_is_computed_once() -> None:
    first, *others = (reader.cross_attn for reader in fold(narrow_model(), FOLDED_SIZE).latent_branch.x2z)
    assert first.query_1ND.shape[:2] == (1, 16) and not hasattr(first, 'q_proj')
    assert all(attention.query_1ND is None for attention in others)


def test_attention_has_one_product_for_its_inputs() -> None:
    folded = fold(narrow_model(), FOLDED_SIZE)
    layers = [module for module in folded.modules() if isinstance(module, folded_layers.FoldedSelfAttention)]
    assert len(layers) == 6
    calls: list[str] = []
    for name in ('qkv_proj', 'o_proj'):
        getattr(layers[0], name).register_forward_hook(lambda *_, name=name: calls.append(name))
    folded(standard_normal((1, 3, 64, 64)))
    assert calls == ['qkv_proj']  # the output projection is part of the residual sum


def test_the_residual_sum_spares_what_others_hold() -> None:
    tokens, hidden = standard_normal((2, 5, 4)), standard_normal((2, 5, 3), seed=1)
    linear = nn.Linear(3, 4, dtype=torch.float64)
    kept = tokens.clone()
    with torch.no_grad():
        expected = tokens + linear(hidden)
        torch.testing.assert_close(folded_layers.add_linear(tokens, hidden, linear), expected)
        assert torch.equal(tokens, kept)
        torch.testing.assert_close(folded_layers.add_linear(tokens, hidden, linear, in_place=True), expected)
    torch.testing.assert_close(tokens, expected)


def test_running_it_changes_no_state_that_was_handed_out() -> None:
    """Sums within are taken in place; maps and codes of earlier segments must stay as they were."""
    folded = fold(narrow_model(), FOLDED_SIZE)
    kept = []
    with torch.no_grad():
        state = folded.start(standard_normal((2, 3, *FOLDED_SIZE)))
        for segment in folded.segments:
            _, state = segment(state)
            kept.append((state, state.feature_BCHW.clone(), state.latent_BNC.clone()))
    for state, feature, latent in kept:
        assert torch.equal(state.feature_BCHW, feature) and torch.equal(state.latent_BNC, latent)
    assert torch.equal(folded.latent_branch.latent, narrow_model().latent_branch.latent)
