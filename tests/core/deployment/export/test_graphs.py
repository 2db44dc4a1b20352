"""Graphs of every kind of network: the same answers, any batch, and no arithmetic on shapes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from exported_networks import EXPORTED, Exported, all_logits, exported, random_images
from own_branches import SIZE as OWN_SIZE
from own_branches import own_network

from dynperceiver.deployment.export import ExportError
from dynperceiver.deployment.export.cleaning import check_graph, clean_graph, read_inputs
from dynperceiver.deployment.export.graphs import ENTRIES, SegmentGraph, export_module, graph_bytes
from dynperceiver.deployment.folding import fold
from dynperceiver.deployment.freezing import freeze
from dynperceiver.feature_branches import FeatureBranch
from dynperceiver.grafting import CutNetwork
from dynperceiver_runtime import DynamicRunner, ExitPolicy
from dynperceiver_runtime.engines.manifest import MANIFEST, file_sha256
from dynperceiver_runtime.engines.onnx_runtime import OnnxRuntimeEngine
from dynperceiver_runtime.engines.sessions import make_session

ON_SHAPES = {'Shape', 'Size', 'Range', 'ConstantOfShape', 'Expand', 'NonZero', 'Gather', 'Where', 'Cast', 'ScatterND', 'ScatterElements'}
LEFT_OVER = {'BatchNormalization', 'Dropout', 'Identity', 'Constant', 'Loop', 'If', 'Scan'}


@pytest.mark.parametrize('kind', EXPORTED)
@pytest.mark.parametrize('num_samples', [1, 2, 5])
def test_logits_are_those_of_the_network(kind: str, num_samples: int) -> None:
    one = exported(kind)
    backend, images = OnnxRuntimeEngine(one.folder, num_threads=1), random_images(one, num_samples, seed=num_samples)
    state = backend.start(images)
    for exit_index, expected in enumerate(all_logits(one.network, images)):
        logits, state = backend.run(exit_index, state)
        assert logits.dtype == np.float32 and np.abs(expected).max() > 0.05
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * max(1.0, np.abs(expected).max()))
    assert one.report.difference < 5e-5


@pytest.mark.parametrize('kind', EXPORTED)
def test_graphs_compute_on_numbers_alone(kind: str) -> None:
    one = exported(kind)
    for entry, segment in zip(one.report.manifest.segments, one.report.segments, strict=True):
        graph = onnx.load(one.folder / entry.file).graph
        assert not {node.op_type for node in graph.node} & (ON_SHAPES | LEFT_OVER)
        assert len(graph.node) == segment.num_nodes
        read = {name for node in graph.node for name in node.input}
        assert tuple(value.name for value in graph.input) == entry.inputs and set(entry.inputs) <= read
        assert tuple(value.name for value in graph.output) == entry.outputs and not set(entry.outputs) & set(entry.inputs)
        assert {value.name for value in graph.initializer} <= read
        dims = [value.type.tensor_type.shape.dim for value in [*graph.input, *graph.output]]
        assert all(dim[0].dim_param and all(other.dim_value for other in dim[1:]) for dim in dims)
        text = (one.folder / entry.file).read_bytes()
        assert b'.py' not in text and b'stack_trace' not in text, 'no paths of the machine'
        assert segment.num_bytes == len(text)


def test_states_hold_what_is_read_later_and_nothing_else() -> None:
    flows = {
        kind: [(entry.inputs, entry.updates, entry.keeps) for entry in exported(kind).report.manifest.segments]
        for kind in ('resnet', 'clips', 'ablated')
    }
    entries, maps = ('feature', 'latent', 'previous_logits'), {'feature': 'next_feature', 'latent': 'next_latent'}
    assert flows['resnet'] == [
        (('images',), {**maps, 'previous_logits': 'logits'}, ()),
        (entries, {**maps, 'previous_logits': 'logits'}, ()),
        (('feature',), {'feature': 'next_feature'}, ('latent', 'previous_logits')),
        (entries, {}, ()),
    ]
    handed_on = [updates.get('previous_logits') for _, updates, _ in flows['clips']]
    assert handed_on == ['next_previous_logits', 'next_previous_logits', None, None], 'logits are means over a clip'
    assert flows['ablated'] == [
        (('images',), maps, ()),
        (('feature', 'latent'), maps, ()),
        (('feature',), {'feature': 'next_feature'}, ('latent',)),
        (('feature', 'latent'), {}, ()),
    ]


OLDER_NAMES = {'previous_logits': 'carry', 'next_previous_logits': 'next_carry'}


def _older(one: Exported, folder: Path) -> Path:
    """The folder as it was exported when the state's entries had other names."""

    def older(value: Any) -> Any:
        if isinstance(value, dict):
            return {older(key): older(content) for key, content in value.items()}
        return [older(content) for content in value] if isinstance(value, list) else OLDER_NAMES.get(value, value)

    shutil.copytree(one.folder, folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    for segment in manifest['segments']:
        path = folder / segment['file']
        model = onnx.load(path)
        for value in (*model.graph.input, *model.graph.output):
            value.name = older(value.name)
        for node in model.graph.node:
            node.input[:], node.output[:] = older(list(node.input)), older(list(node.output))
        onnx.save(model, path)
        segment['sha256'] = file_sha256(path)
    manifest['segments'] = older(manifest['segments'])
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize('kind', ['resnet', 'clips'])
def test_folders_exported_under_older_names_run(kind: str, tmp_path: Path) -> None:
    one = exported(kind)
    folder, images = _older(one, tmp_path / 'older'), random_images(one, 3)
    text = (folder / MANIFEST).read_text()
    assert '"carry"' in text and 'previous_logits' not in text
    engines = OnnxRuntimeEngine(folder, num_threads=1), OnnxRuntimeEngine(one.folder, num_threads=1)
    states = [engine.start(images) for engine in engines]
    for exit_index in range(engines[0].num_exits):
        (logits, older), (same, newer) = (engine.run(exit_index, state) for engine, state in zip(engines, states, strict=True))
        np.testing.assert_array_equal(logits, same)
        assert ('carry' in older.arrays) == ('previous_logits' in newer.arrays)
        index_S = np.array([2, 0]) if exit_index == 0 else np.arange(2)
        states = [engine.concat([engine.select(state, index_S[:1]), engine.select(state, index_S[1:])])
                  for engine, state in zip(engines, (older, newer), strict=True)]  # fmt: skip
    policy = ExitPolicy((0.3,) * (engines[0].num_exits - 1))
    results = [DynamicRunner(engine, policy)(images) for engine in engines]
    np.testing.assert_array_equal(results[0].logits, results[1].logits)


def _model(text: str) -> onnx_ir.Model:
    return onnx_ir.from_onnx_text('<ir_version: 10, opset_import: ["" : 20]>\n' + text)


def test_shape_arithmetic_is_refused() -> None:
    model = _model('agraph (float[n, 3] x) => (float[n, 3] y) { s = Shape(x)\n t = Shape(x)\n y = Expand(x, s) }')
    message = r'graph of segment 2 has 1 Expand \(arithmetic on shapes\), 2 Shape .*are constants; .*is_exporting\(\)'
    with pytest.raises(ExportError, match=message):
        check_graph(model, 2)
    with pytest.raises(ExportError, match=r'graph of segment 3 has 1 Dropout'):
        check_graph(_model('agraph (float[n, 3] x) => (float[n, 3] y) { y = Dropout(x) }'), 3)


def test_the_code_of_others_may_compute_shapes() -> None:
    check_graph(_model('agraph (float[n, 3] x) => (float[n, 3] y) { s = Shape(x)\n y = Expand(x, s) }'), 2, computes_shapes=True)
    with pytest.raises(ExportError, match=r'graph of segment 3 has 1 Dropout'):
        check_graph(_model('agraph (float[n, 3] x) => (float[n, 3] y) { y = Dropout(x) }'), 3, computes_shapes=True)
    assert not FeatureBranch.computes_shapes, 'ours need none'
    assert CutNetwork.computes_shapes


def test_cleaning_takes_out_what_nothing_reads() -> None:
    model = _model('agraph (float[n] x, float[n] unread) => (float[n] y) { z = Identity(x)\n y = Relu(z)\n dead = Neg(x) }')
    clean_graph(model)
    assert [value.name for value in model.graph.inputs] == ['x']
    assert [node.op_type for node in model.graph] == ['Relu']
    check_graph(model, 1)


def test_outputs_that_pass_an_input_on_are_refused() -> None:
    model = _model('agraph (float[n] x) => (float[n] y, float[n] x) { y = Relu(x) }')
    with pytest.raises(ExportError, match=r"segment 1 passes inputs on as \['x'\]"):
        check_graph(model, 1)


@pytest.mark.parametrize('frames', [1, 2])
def test_any_module_is_exported_alike(frames: int, capfd: pytest.CaptureFixture[str]) -> None:
    """The one exporter: silent, cleaned, and for any number of samples."""
    module = fold(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Dropout(), torch.nn.ReLU()), (8, 8))
    hook = torch.nn.modules.module.register_module_forward_hook(lambda *args: print('called'))
    try:
        graph = export_module(module, [torch.zeros(2 * frames, 3, 8, 8)], ['images'], None, frames)
    finally:
        hook.remove()
    assert tuple(capfd.readouterr()) == ('', '')
    assert [node.op_type for node in graph.graph] == ['Conv', 'Relu'] and read_inputs(graph) == ('images',)
    session = make_session(graph_bytes(graph), 1)
    for count in (frames, 3 * frames):
        images = torch.randn(count, 3, 8, 8)
        np.testing.assert_allclose(session.run(None, {'images': images.numpy()})[0], module(images), rtol=1e-5, atol=1e-5)


class _PreActivation(torch.nn.Module):
    """Norm, activation, convolution, twice."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.bn1, self.bn2 = (torch.nn.BatchNorm2d(channels) for _ in range(2))

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        return feature + self.conv2(self.bn2(self.conv1(self.bn1(feature).relu())).relu())


def test_norms_that_cannot_be_folded_are_served() -> None:
    """The third segment alone, which has the last stage of the CNN and its exit."""
    network = freeze(own_network(_PreActivation), OWN_SIZE).network
    states = [network.start(torch.randn(4, 3, *OWN_SIZE))]
    with torch.no_grad():
        for segment in network.segments[:3]:
            logits, state = segment(states[-1])
            states.append(state)
    arrays = [states[2].feature_BCHW.permute(0, 2, 3, 1), states[2].latent_BNC, states[2].previous_logits_BK]
    graph = export_module(SegmentGraph(network, 3), arrays, ENTRIES, ['logits'], 1)
    check_graph(graph, 3)
    assert [node.op_type for node in graph.graph].count('BatchNormalization') == 1, 'the first of the block; the second is folded'
    found = make_session(graph_bytes(graph), 1).run(None, {'feature': arrays[0].numpy()})[0]
    np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-4)
