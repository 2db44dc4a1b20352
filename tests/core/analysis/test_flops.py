"""Cost by counting operators: published figures, and small things by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from core_models import SWITCHES, narrow_model, narrow_shadow, shadow_model
from torch import nn

from dynperceiver.analysis import count_exit_costs, count_gmacs, meta_copy
from dynperceiver.feature_branches import FEATURE_BRANCHES
from dynperceiver.layers import Attention


def _macs(module: nn.Module, *shapes: tuple[int, ...]) -> int:
    macs = 1e9 * count_gmacs(meta_copy(module), *(torch.empty(shape, device='meta') for shape in shapes))
    assert macs == pytest.approx(round(macs))
    return round(macs)


def test_convolutions_by_hand() -> None:
    assert _macs(nn.Conv2d(3, 8, 5, stride=2, padding=2), (1, 3, 32, 20)) == 8 * 3 * 5 * 5 * 16 * 10
    assert _macs(nn.Conv2d(12, 24, 3, padding=1, groups=4), (2, 12, 7, 7)) == 2 * 24 * 3 * 9 * 49
    assert _macs(nn.Conv2d(16, 16, 7, padding=3, groups=16), (1, 16, 9, 9)) == 16 * 49 * 81


def test_matrix_products_by_hand() -> None:
    assert _macs(nn.Linear(10, 6), (3, 10)) == 3 * 10 * 6
    assert _macs(nn.Linear(10, 6, bias=False), (2, 5, 10)) == 2 * 5 * 10 * 6
    queries, keys, channels, kv_channels, projected = 9, 5, 8, 12, 4
    products = queries * channels * projected * 2 + keys * kv_channels * projected * 2 + 2 * queries * keys * projected
    attention = Attention(2, channels, kv_channels, projected, num_kv_tokens=keys)
    assert _macs(attention, (3, queries, channels), (3, keys, kv_channels)) == 3 * products


def test_norms_activations_and_pooling_are_free() -> None:
    pooling = nn.Sequential(nn.BatchNorm2d(4), nn.Hardswish(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(7))
    assert _macs(nn.Sequential(pooling, nn.Flatten(), nn.LayerNorm(196), nn.GELU()), (2, 4, 32, 32)) == 0


def test_a_tiny_network_by_hand() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    assert _macs(module, (2, 3, 8, 8)) == 2 * (4 * 3 * 9 * 64 + 40)


@pytest.mark.parametrize(
    ('variant', 'gmacs'),
    [
        ({'feature_branch': 'regnet_y_1_6gf', 'num_latents': 256}, (None, None, None, 2.157)),
        ({'feature_branch': 'resnet50', 'width': 0.625, 'num_latents': 128}, (1.624, 2.695, 3.012, 3.200)),
    ],
    ids=['regnet_y_1_6gf', 'resnet50'],
)
def test_published_costs(variant: dict[str, Any], gmacs: tuple[float | None, ...]) -> None:
    costs = count_exit_costs(shadow_model(**variant, depth_factors=(1, 1, 1, 1)))
    assert [cost.number for cost in costs] == [1, 2, 3, 4]
    for cost, expected in zip(costs, gmacs, strict=True):
        if expected is not None:
            assert cost.cost_gmacs == pytest.approx(expected, abs=5e-4)


def test_published_cost_of_the_detection_backbone() -> None:
    model = shadow_model('regnet_y_1_6gf', num_latents=256, depth_factors=(1, 1, 1, 1), num_classes=None)
    assert count_exit_costs(model, 800, 1280)[-1].cost_gmacs == pytest.approx(37.67, abs=5e-3)


@pytest.mark.parametrize(('name', 'switched_off'), [*((name, ()) for name in FEATURE_BRANCHES), ('resnet18', SWITCHES)])
def test_parameters_and_shares_sum_up(name: str, switched_off: tuple[str, ...]) -> None:
    model = narrow_shadow(name, **dict.fromkeys(switched_off, False))
    costs = count_exit_costs(model, 64, 64)
    assert costs[-1].num_params == sum(parameter.numel() for parameter in model.parameters())
    assert costs[-1].cost_gmacs == pytest.approx(sum(cost.segment_gmacs for cost in costs))
    assert [cost.num_params for cost in costs] == sorted(cost.num_params for cost in costs)
    assert all(cost.segment_gmacs > 0 for cost in costs)


def test_parameters_of_an_exit_are_those_that_it_needs() -> None:
    """Running up to an exit touches as many parameters as are counted for it, and those of the exits before."""
    model = narrow_model()
    for cost in count_exit_costs(model, 64, 64):
        model.zero_grad()
        total = torch.zeros((), dtype=torch.float64)
        for (logits, _), _ in zip(model.run(model.start(torch.randn(2, 3, 64, 64, dtype=torch.float64))), range(cost.number), strict=False):
            total = total + logits.square().sum()
        total.backward()
        assert cost.num_params == sum(parameter.numel() for parameter in model.parameters() if parameter.grad is not None)


def test_a_sample_of_video_is_a_clip() -> None:
    image = count_exit_costs(narrow_shadow('resnet18'), 64, 64)
    clip = count_exit_costs(narrow_shadow('resnet18', num_frames=8, temporal_shift='bidirectional'), 64, 64)
    for one, eight in zip(image, clip, strict=True):
        assert eight.cost_gmacs == pytest.approx(8 * one.cost_gmacs)
        assert eight.num_params == one.num_params


def test_counting_leaves_the_network_alone() -> None:
    model = narrow_model(dtype=torch.float32).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    count_exit_costs(model, 64, 64)
    assert model.training
    assert all(parameter.requires_grad and parameter.device.type == 'cpu' for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
