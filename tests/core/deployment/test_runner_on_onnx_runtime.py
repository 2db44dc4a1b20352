"""The runner on exported graphs: stops as it does in PyTorch, and serves without it."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from dynamic_runs import assert_replayed, spread_policy
from exported_networks import EXPORTED, all_logits, exported, random_images, stored_graphs

from dynperceiver.deployment.export.folder import write_manifest
from dynperceiver.inference import ENGINES, DynamicRunner, EngineError, ExitPolicy, PolicyRecord, TorchEngine, freeze, gather
from dynperceiver_runtime import DynamicRunner as EngineRunner
from dynperceiver_runtime.engines import ENGINES as FOLDER_ENGINES
from dynperceiver_runtime.engines import onnx_runtime
from dynperceiver_runtime.engines.manifest import PolicyEntry, file_sha256
from dynperceiver_runtime.engines.onnx_runtime import OnnxRuntimeEngine, OnnxState

_assert_replayed = partial(assert_replayed, tolerance=1e-4)
_spread_policy = partial(spread_policy, between=True)  # these graphs round differently


@pytest.mark.parametrize('kind', EXPORTED)
def test_every_kind_answers_as_replayed(kind: str) -> None:
    one = exported(kind)
    images = random_images(one, 16)
    logits = np.stack(all_logits(one.network, images))
    policy = _spread_policy(logits)
    runner = DynamicRunner(one.folder, policy, backend='onnxruntime')
    result = runner(images)
    assert isinstance(result.logits, np.ndarray)
    assert len(set(result.exit_index.tolist())) == (3 if kind == 'ablated' else 4)  # the exit 3 of that one is sure of everything
    _assert_replayed(result, policy, logits)
    rows = one.network.num_frames
    for count in (1, 2, 7):
        _assert_replayed(runner(images[: count * rows]), policy, logits[:, :count])
    batches = np.split(images, [3 * rows, 4 * rows, 9 * rows])
    _assert_replayed(gather(runner.stream(batches, batch_size=4)), policy, logits)
    _assert_replayed(runner(images, max_exit=1), policy, logits, 1)
    assert runner(images[:0]).logits.shape == (0, 5)


def test_graphs_of_skipped_segments_are_not_even_loaded() -> None:
    one = exported('resnet')
    runner = DynamicRunner(one.folder, ExitPolicy((0.0, 0.5, 0.5)), backend='onnxruntime')
    runner(random_images(one, 3))
    assert runner.engine.num_loaded == 1
    runner(random_images(one, 1)[:0])
    assert runner.engine.num_loaded == 1
    DynamicRunner(None, backend=runner.engine, max_exit=2)(random_images(one, 1))
    assert runner.engine.num_loaded == 3


def test_views_of_a_video() -> None:
    one = exported('clips')
    frames = random_images(one, 12)
    logits = np.stack(all_logits(one.network, frames)).reshape(4, 6, 2, -1).mean(2)
    policy = _spread_policy(logits)
    runner = DynamicRunner(one.folder, policy, backend='onnxruntime', views=2)
    _assert_replayed(runner(frames), policy, logits)
    _assert_replayed(gather(runner.stream(np.split(frames, 3), batch_size=3)), policy, logits)


@pytest.mark.parametrize('kind', ['resnet', 'clips'])
def test_large_batches_run_in_parts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = exported(kind)
    images = random_images(one, 5)
    logits = np.stack(all_logits(one.network, images))
    side, sizes = one.report.manifest.image_size[0], []
    monkeypatch.setattr(onnx_runtime, 'PIXELS_AT_ONCE', 2 * side * side * one.network.num_frames)
    run_part = OnnxRuntimeEngine._run_part

    def counted(backend: OnnxRuntimeEngine, graph: object, exit_index: int, state: OnnxState) -> object:
        sizes.append((exit_index, state.num_samples))
        return run_part(backend, graph, exit_index, state)

    monkeypatch.setattr(OnnxRuntimeEngine, '_run_part', counted)
    runner = DynamicRunner(one.folder, ExitPolicy((2.0, 0.0, 0.0)), backend='onnxruntime')
    _assert_replayed(runner(images), runner.policy, logits)
    assert sizes == [(exit_index, count) for exit_index in (0, 1) for count in (2, 2, 1)]
    np.testing.assert_allclose(runner.full_logits(images), logits, rtol=1e-4, atol=1e-4)


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Sizes of the images that the narrow ResNet is exported for; its graphs are there already."""
    made: list[tuple[int, int]] = []
    read = stored_graphs('resnet')

    def count(network: object, image_size: tuple[int, int], opset: int) -> object:
        made.append(image_size)
        return read(network, image_size, opset)

    monkeypatch.setattr('dynperceiver.deployment.export.segments.export_graphs', count)
    return made


def test_a_network_in_memory_is_exported_once(exports: list[tuple[int, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = exported('resnet')
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    images = random_images(one, 6)
    logits = np.stack(all_logits(one.network, images))
    policy = _spread_policy(logits)
    runner = DynamicRunner(one.network, policy, backend='onnxruntime', num_threads=1)
    assert not exports
    for _ in range(2):
        _assert_replayed(runner(images), policy, logits)
    assert exports == [one.report.manifest.image_size] and runner.engine.fingerprint == one.report.manifest.fingerprint
    assert not list(tmp_path.iterdir()), 'no file is written that somebody would have to delete'
    with pytest.raises(EngineError, match='exported for 64x64'):
        runner(images[:, :, :32, :32])
    copied = pickle.loads(pickle.dumps(runner.engine))
    assert copied.num_loaded == 0
    _assert_replayed(EngineRunner(copied, policy)(images), policy, logits)


IN_A_CHILD = """
import os, sys
import numpy as np
from dynperceiver_runtime import DynamicRunner, ExitPolicy, OnnxRuntimeEngine
from dynperceiver_runtime.engines.manifest import read_manifest
manifest = read_manifest(sys.argv[1])
graphs = {entry.file: open(os.path.join(sys.argv[1], entry.file), 'rb').read() for entry in manifest.segments}
runner = DynamicRunner(OnnxRuntimeEngine.from_graphs(manifest, graphs, num_threads=2))
images = np.load(sys.argv[2])
runner(images, max_exit=0)
child = os.fork()
if not child:
    del runner
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
np.save(sys.argv[3], runner(images).logits)
assert runner.engine.num_loaded == 4
"""


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_a_child_that_drops_the_runner_takes_nothing_away(tmp_path: Path) -> None:
    """Graphs that the parent has not loaded yet still load."""
    one = exported('resnet')
    images, answers = tmp_path / 'images.npy', tmp_path / 'logits.npy'
    np.save(images, random_images(one, 2))
    subprocess.run([sys.executable, '-c', IN_A_CHILD, str(one.folder), str(images), str(answers)], check=True, timeout=60)
    np.testing.assert_allclose(np.load(answers), all_logits(one.network, np.load(images))[3], rtol=1e-4, atol=1e-4)


def test_hooks_that_cannot_be_copied_are_in_nobodys_way(exports: list[tuple[int, int]]) -> None:
    network = EXPORTED['resnet'][0]()
    called: list[object] = []
    lock = threading.Lock()
    for module in network.modules():
        module.register_forward_hook(lambda *args, lock=lock: called.append(args[0]))
        module.register_state_dict_pre_hook(lambda *args, lock=lock: None)
    images = random_images(exported('resnet'), 2)
    result = DynamicRunner(network, backend='onnxruntime')(images)
    np.testing.assert_allclose(result.logits, all_logits(exported('resnet').network, images)[3], rtol=1e-4, atol=1e-4)
    assert exports and not called


def test_the_policy_of_the_folder_is_taken(tmp_path: Path) -> None:
    one = exported('resnet')
    for entry in one.report.manifest.segments:
        (tmp_path / entry.file).symlink_to(one.folder / entry.file)

    def store(policy: ExitPolicy) -> None:
        policy.save(tmp_path / 'policy.json')
        write_manifest(tmp_path, replace(one.report.manifest, policy=PolicyEntry('policy.json', file_sha256(tmp_path / 'policy.json'))))

    images = random_images(one, 4)
    assert DynamicRunner(one.folder, backend='onnxruntime')(images).exit_index.tolist() == [3] * 4
    store(ExitPolicy((2.0, 0.0, 0.5)))
    assert DynamicRunner(tmp_path, backend='onnxruntime')(images).exit_index.tolist() == [1] * 4
    assert DynamicRunner(tmp_path, ExitPolicy((0.0, 0.0, 0.0)), backend='onnxruntime')(images).exit_index.tolist() == [0] * 4
    store(ExitPolicy((0.5,) * 3, record=PolicyRecord(checkpoint='sha256:' + '0' * 64)))
    with pytest.raises(ValueError) as caught:
        DynamicRunner(tmp_path, backend='onnxruntime')
    assert one.report.manifest.fingerprint in str(caught.value) and '0' * 64 in str(caught.value)


def test_ready_engines_are_taken_as_they_are() -> None:
    one = exported('resnet')
    images = random_images(one, 2)
    expected = all_logits(one.network, images)[3]
    for engine in (TorchEngine(freeze(one.network, (64, 64))), OnnxRuntimeEngine(one.folder)):
        for runner in (DynamicRunner(None, backend=engine), EngineRunner(engine)):
            assert runner.engine is engine
            np.testing.assert_allclose(np.asarray(runner(images).logits), expected, rtol=1e-4, atol=1e-4)
        with pytest.raises(EngineError, match=rf'backend is a {type(engine).__name__}, which is made already; pass model=None, or name'):
            DynamicRunner(one.network, backend=engine)
        with pytest.raises(TypeError, match=rf"folded=False with a ready {type(engine).__name__}: pass such options where"):
            DynamicRunner(None, backend=engine, folded=False)


def test_engines_are_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    one = exported('resnet')
    with pytest.raises(EngineError, match=r"an engine named 'onnxruntime' serves an exported folder already; .*choose another"):
        FOLDER_ENGINES.register('onnxruntime', OnnxRuntimeEngine)
    with pytest.raises(EngineError, match=r"an engine named 'torch' serves a frozen network already; .*choose another"):
        ENGINES.register('torch', TorchEngine)
    with pytest.raises(EngineError, match=r"backend='openvino' is unknown; choose 'torch' or 'onnxruntime'"):
        DynamicRunner(one.network, backend='openvino')
    with pytest.raises(EngineError, match=r"backend='openvino' is unknown; choose 'onnxruntime'"):
        DynamicRunner(one.folder, backend='openvino')
    monkeypatch.setitem(ENGINES, 'openvino', None)
    del ENGINES['openvino']
    ENGINES.register('openvino', lambda frozen, level: TorchEngine(frozen, dtype=torch.float64))
    monkeypatch.setitem(FOLDER_ENGINES, 'openvino', lambda folder, level: OnnxRuntimeEngine(folder, num_threads=level))
    assert DynamicRunner(one.folder, backend='openvino', level=3).engine.num_threads == 3
    runner = DynamicRunner(one.network, backend='openvino', level=3)
    runner(random_images(one, 1))
    assert runner.engine.dtype == torch.float64


def test_input_that_is_no_number_is_named() -> None:
    one = exported('resnet')
    images = random_images(one, 4)
    images[1, 0, 3, 3] = np.nan
    with pytest.raises(ValueError, match=r'(?s)exit 1.*sample 1'):
        DynamicRunner(one.folder, ExitPolicy((0.5,) * 3), backend='onnxruntime')(images)


def test_serving_imports_no_torch(tmp_path: Path) -> None:
    """In a process of its own, where PyTorch and MMEngine cannot be imported."""
    one = exported('resnet')
    images = random_images(one, 4)
    np.save(tmp_path / 'images.npy', images)
    code = f"""
import sys
for name in ('torch', 'mmengine', 'onnx', 'onnxscript', 'dynperceiver'):
    sys.modules[name] = None
import numpy as np
from dynperceiver_runtime import DynamicRunner, ExitPolicy, gather
runner = DynamicRunner({str(one.folder)!r}, ExitPolicy((0.0, 0.5, 0.5)))
images = np.load({str(tmp_path / 'images.npy')!r})
np.save({str(tmp_path / 'logits.npy')!r}, runner(images).logits)
assert gather(runner.stream([images, images])).logits.shape == (8, 5)
"""
    subprocess.run([sys.executable, '-c', code], check=True)
    np.testing.assert_allclose(np.load(tmp_path / 'logits.npy'), all_logits(one.network, images)[0], rtol=1e-4, atol=1e-4)
