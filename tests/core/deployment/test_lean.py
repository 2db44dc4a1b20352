"""Lean networks are served like all others: folded, in graphs, and by the runner."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import pytest
import torch
from core_models import standard_normal
from dynamic_runs import assert_replayed, full_logits, spread_policy
from lean_networks import lean_model

from dynperceiver import DynPerceiver
from dynperceiver.deployment import freeze
from dynperceiver.deployment.export import export
from dynperceiver.deployment.folded_layers import FoldedCrossAttention, FoldedMapReader, FoldedSelfAttention
from dynperceiver.deployment.folding import fold
from dynperceiver.inference import DynamicRunner

FORMS: dict[str, dict[str, Any]] = {
    'lean': {'frozen_trunk': True},
    'one exit': {'read_maps': (3,)},
    'early': {'read_maps': (0, 2), 'exit_maps': (2, 3)},
    'merged': {'merged_exit': True},
    'writing': {'z2x': True, 'merged_exit': True, 'last_z2x': True},
    'latent': {'early_exits': 'latent', 'fkt': True, 'merged_exit': True},
    'probes': {'early_exits': 'probe', 'probe_channels': 9},
    'no refining': {'depth_factors': (0, 0, 0, 0)},
    'dwc': {'dwc': True},
    'clips': {'num_frames': 4, 'temporal_shift': 'bidirectional'},
}
SIZES = {'square': (64, 64), 'uneven': (104, 75)}


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('size', SIZES)
def test_folded_is_the_same(form: str, size: str) -> None:
    network = lean_model(max_tokens=None if form == 'dwc' else 9, **FORMS[form])
    folded = fold(network, SIZES[size])
    for other in (SIZES[size], (48, 80)):
        images = standard_normal((2 * network.num_frames, 3, *other))
        for one, same in zip(folded(images), network(images), strict=True):
            torch.testing.assert_close(one, same)


def test_what_is_folded() -> None:
    folded = fold(lean_model(), (64, 64))
    readers = [module for module in folded.modules() if isinstance(module, FoldedMapReader)]
    assert len(readers) == 2
    assert [reader.cross_attn.query_1ND is None for reader in readers] == [False, True], 'the first query is a constant'
    assert sum(isinstance(module, FoldedSelfAttention) for module in folded.modules()) == 2
    assert sum(isinstance(module, FoldedCrossAttention) for module in folded.modules()) == 2
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())


def test_a_read_before_leaves_no_constant_query() -> None:
    folded = fold(lean_model(read_maps=(1, 2, 3), depth_factors=(0, 0, 0, 0)), (64, 64))
    readers = [module for module in folded.modules() if isinstance(module, FoldedMapReader)]
    assert [reader.cross_attn.query_1ND is None for reader in readers] == [False, True, True]


@pytest.mark.parametrize('form', FORMS)
def test_runner_answers_as_replayed(form: str) -> None:
    network = lean_model(**FORMS[form])
    images = standard_normal((12 * network.num_frames, 3, 56, 56), 1)
    logits = full_logits(network, images)
    policy = spread_policy(logits)
    result = DynamicRunner(network, policy, dtype=torch.float64)(images)
    assert len(set(result.exit_index.tolist())) >= 2
    assert_replayed(result, policy, logits)


EXPORTED: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    'lean': ({'frozen_trunk': True, 'max_tokens': 9}, (104, 75)),
    'early': ({'read_maps': (0, 2), 'exit_maps': (2, 3), 'num_frames': 2, 'temporal_shift': 'bidirectional'}, (48, 48)),
    'probes': ({'early_exits': 'probe'}, (48, 64)),
}


@cache
def _network(form: str) -> DynPerceiver:
    changes, _ = EXPORTED[form]
    return lean_model('resnet18', torch.float32, **changes)


@pytest.fixture(scope='module', params=EXPORTED)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[DynPerceiver, Path]:
    """A network and its export."""
    network, folder = _network(request.param), tmp_path_factory.mktemp('served') / 'served'
    export(freeze(network, EXPORTED[request.param][1]), folder)
    return network, folder


def test_graphs_answer_as_replayed(served: tuple[DynPerceiver, Path]) -> None:
    network, folder = served
    runner = DynamicRunner(folder, backend='onnxruntime')
    size = runner.engine.manifest.image_size
    images = np.random.default_rng(0).standard_normal((8 * network.num_frames, 3, *size), dtype=np.float32)
    logits = full_logits(network, torch.from_numpy(images))
    policy = spread_policy(logits, between=True)
    for count in (8, 1, 3):
        result = DynamicRunner(folder, policy, backend='onnxruntime')(images[: count * network.num_frames])
        assert_replayed(result, policy, logits[:, :count], tolerance=1e-4)


def test_graphs_are_small_and_pass_nothing_on_in_vain(served: tuple[DynPerceiver, Path]) -> None:
    network, folder = served
    files = sorted(folder.glob('*.onnx'))
    assert len(files) == network.num_exits
    last = onnx_ir.load(files[-1])
    assert [value.name for value in last.graph.inputs] == ['feature'], 'the last exit is the trunk alone'
    assert not any(node.op_type in ('Expand', 'Shape', 'Resize') for file in files for node in onnx_ir.load(file).graph)
