"""Backbones of MMDetection with a linear head are cut, and answer as before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dynamic_runs import assert_replayed, full_logits, spread_policy
from foreign_networks import Wrapped, check_image_exits, check_parts, lean_on, unsettled
from mmdet.registry import MODELS

import dynperceiver_det  # noqa: F401  its fixes must come before MMDetection is imported
from dynperceiver.deployment import freeze
from dynperceiver.deployment.export import export
from dynperceiver.grafting import GraftError, cut_network
from dynperceiver.inference import DynamicRunner

SIZE = (64, 64)
NETWORKS: dict[str, tuple[dict[str, Any], int, list[str]]] = {
    'ResNet': (dict(depth=18, base_channels=8), 64, ['layer2', 'layer3']),
    'ResNeXt': (dict(depth=50, groups=4, base_width=4, base_channels=8), 256, ['layer1.1', 'layer3.0']),
    'Res2Net': (dict(depth=50, base_channels=16), 512, ['layer2', 'layer3']),
    'MobileNetV2': (dict(widen_factor=0.25, out_indices=(7,)), 1280, ['layer3', 'layer5.0']),
    'EfficientNet': (dict(arch='b0', out_indices=(6,)), 1280, ['layers.3', 'layers.4']),
    'CSPNeXt': (dict(deepen_factor=0.33, widen_factor=0.25), 256, ['stage2', 'stage3']),
    'PyramidVisionTransformerV2': (dict(embed_dims=8, num_layers=[1, 1, 1, 1]), 64, ['layers.1.1.0', 'layers.2.1.0']),
    'SwinTransformer': (
        dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=4),
        64,
        ['stages.1.blocks.0', 'stages.2.blocks.0'],
    ),
}


def _network(kind: str) -> torch.nn.Module:
    config, channels, _ = NETWORKS[kind]
    return unsettled(Wrapped(MODELS.build(dict(config, type=kind)), channels))


def _names(kind: str) -> list[str]:
    return [f'backbone.{name}' for name in NETWORKS[kind][2]]


@pytest.mark.parametrize('kind', NETWORKS)
def test_exits_on_backbones(kind: str) -> None:
    network, example = _network(kind), torch.randn(2, 3, *SIZE)
    branch = check_parts(network, example, _names(kind))
    check_image_exits(network, branch, example)


@pytest.mark.parametrize('kind', ['EfficientNet', 'CSPNeXt'])
def test_served_in_graphs(kind: str, tmp_path: Path) -> None:
    """Their code computes with shapes, which graphs of our own trunks must not."""
    network = _network(kind)
    dynamic = lean_on(cut_network(network, torch.randn(2, 3, *SIZE), _names(kind)))
    frozen = freeze(dynamic, SIZE)
    export(frozen, tmp_path / 'served')
    images = np.random.default_rng(0).standard_normal((6, 3, *SIZE), dtype=np.float32)
    logits = full_logits(dynamic, torch.from_numpy(images))
    policy = spread_policy(logits, between=True)
    for count in (6, 1):
        result = DynamicRunner(tmp_path / 'served', policy, backend='onnxruntime')(images[:count])
        assert_replayed(result, policy, logits[:, :count], tolerance=1e-3)


def test_windows_of_one_batch_size_have_no_graph(tmp_path: Path) -> None:
    network = _network('SwinTransformer')
    dynamic = lean_on(cut_network(network, torch.randn(2, 3, *SIZE), _names('SwinTransformer')))
    with pytest.raises(GraftError, match='runs on one sample at a time and has no graph for batches; serve it with PyTorch'):
        export(freeze(dynamic, SIZE), tmp_path / 'served')
    assert not (tmp_path / 'served').exists()


@pytest.mark.parametrize('kind', ['PyramidVisionTransformerV2', 'SwinTransformer'])
def test_checkpoints_round(kind: str) -> None:
    """Whatever a graph is made of, its weights have names, and another cut of the same network takes them."""
    first, second = (lean_on(cut_network(_network(kind), torch.randn(2, 3, *SIZE), _names(kind))) for _ in range(2))
    images = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        assert not torch.allclose(first(images)[-1], second(images)[-1])
        second.load_state_dict(first.state_dict())
        for one, same in zip(second(images), first(images), strict=True):
            assert torch.equal(one, same)
