"""The runner on exported graphs: stops as it does in PyTorch, and serves without it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from dynamic_runs import assert_replayed, spread_policy
from exported_networks import EXPORTED, all_logits, exported, random_images

from dynperceiver.deployment.export import in_memory
from dynperceiver.deployment.export.folder import write_manifest
from dynperceiver.deployment.torch_engine import TorchEngine
from dynperceiver.inference import DynamicRunner, EngineError, ExitPolicy, PolicyRecord, gather
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


def test_a_network_in_memory_is_exported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    one = exported('resnet')
    exports: list[tuple[int, int]] = []

    def copy_of_the_export(network: object, folder: str, image_size: tuple[int, int]) -> None:
        assert network is one.network
        exports.append(image_size)
        for path in one.folder.iterdir():
            (Path(folder) / path.name).write_bytes(path.read_bytes())

    monkeypatch.setattr(in_memory, 'export_segments', copy_of_the_export)
    images = random_images(one, 6)
    logits = np.stack(all_logits(one.network, images))
    policy = _spread_policy(logits)
    runner = DynamicRunner(one.network, policy, backend='onnxruntime', num_threads=1)
    assert not exports
    for _ in range(2):
        _assert_replayed(runner(images), policy, logits)
    assert exports == [one.report.manifest.image_size]
    with pytest.raises(EngineError, match='exported for 64x64'):
        runner(images[:, :, :32, :32])


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


def test_a_ready_made_backend_runs_what_it_was_made_of(tmp_path: Path) -> None:
    one, other = exported('resnet'), exported('clips')
    on_torch, in_memory_too, on_folder = TorchEngine(one.network), in_memory.ExportingBackend(one.network), OnnxRuntimeEngine(one.folder)
    model = torch.nn.Sequential(torch.nn.Identity(), one.network)
    (tmp_path / 'link').symlink_to(one.folder)
    for backend, models in (
        (on_torch, (None, one.network, model)),
        (in_memory_too, (None, one.network, model)),
        (on_folder, (None, one.folder, str(one.folder), tmp_path / 'link')),
    ):
        assert all(DynamicRunner(same, backend=backend).backend is backend for same in models)
    for backend, model, name in (
        (on_torch, other.network, 'a DynPerceiver'),
        (on_torch, one.folder, f"'{one.folder}'"),
        (in_memory_too, other.network, 'a DynPerceiver'),
        (on_folder, other.folder, f"'{other.folder}'"),
        (on_folder, one.network, 'a DynPerceiver'),
    ):
        message = f'model is {name}, which the {type(backend).__name__} passed as backend was not made of, .*; pass model=None'
        with pytest.raises(EngineError, match=message):
            DynamicRunner(model, backend=backend)
    message = r'backend is a TorchEngine, which is made already, and device=.cpu., folded=False would do nothing; pass such options where'
    with pytest.raises(EngineError, match=message):
        DynamicRunner(None, backend=on_torch, device='cpu', folded=False)


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
for name in ('torch', 'mmengine', 'onnx', 'onnxscript'):
    sys.modules[name] = None
import numpy as np
from dynperceiver.inference import DynamicRunner, ExitPolicy, gather
runner = DynamicRunner({str(one.folder)!r}, ExitPolicy((0.0, 0.5, 0.5)), backend='onnxruntime')
images = np.load({str(tmp_path / 'images.npy')!r})
np.save({str(tmp_path / 'logits.npy')!r}, runner(images).logits)
assert gather(runner.stream([images, images])).logits.shape == (8, 5)
"""
    subprocess.run([sys.executable, '-c', code], check=True)
    np.testing.assert_allclose(np.load(tmp_path / 'logits.npy'), all_logits(one.network, images)[0], rtol=1e-4, atol=1e-4)
