"""The backend on exported graphs: states, what it refuses, and that it needs no PyTorch."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exported_networks import all_logits, exported, random_images
from tool_runs import SOURCES

from dynperceiver.inference import EngineError
from dynperceiver_runtime.engines.onnx_runtime import OnnxRuntimeEngine, OnnxState


@pytest.fixture(scope='module')
def backend() -> OnnxRuntimeEngine:
    """A backend that several tests use."""
    return OnnxRuntimeEngine(exported('resnet').folder, num_threads=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of an exported folder, which tests may spoil."""
    return Path(shutil.copytree(exported('resnet').folder, tmp_path / 'net'))


def _refuse(number: int) -> Any:
    raise AssertionError(f'session {number} is loaded a second time')


def _close(logits: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


def test_it_says_what_it_runs(backend: OnnxRuntimeEngine) -> None:
    manifest = exported('resnet').report.manifest
    assert (backend.num_exits, backend.num_classes, backend.num_frames, backend.fingerprint) == (4, 5, 1, manifest.fingerprint)
    assert OnnxRuntimeEngine(exported('clips').folder).num_frames == 3
    array = np.ones(3)
    assert backend.wrap(array) is array


def test_graphs_are_loaded_when_a_sample_comes(tmp_path: Path) -> None:
    one = exported('resnet')
    backend = OnnxRuntimeEngine(str(one.folder), num_threads=2)
    state = backend.start(random_images(one, 2))
    assert backend.num_loaded == 0
    state = backend.run(0, state)[1]
    assert backend.num_loaded == 1
    session = backend._sessions.get(0, _refuse)
    backend.run(0, backend.start(random_images(one, 1)))
    backend.run(1, state)
    assert backend.num_loaded == 2 and backend._sessions.get(0, _refuse) is session


@pytest.mark.parametrize('kind', ['resnet', 'clips', 'ablated'])
def test_narrowed_and_joined_batches_answer_alike(kind: str) -> None:
    one = exported(kind)
    backend = OnnxRuntimeEngine(one.folder, num_threads=1)
    images = random_images(one, 5)
    expected = all_logits(one.network, images)
    state, order = backend.start(images), np.arange(5)
    for exit_index, chosen in enumerate([[4, 0, 2, 3], [3, 1, 0], [2, 1], [1]]):
        logits, state = backend.run(exit_index, state)
        _close(logits, expected[exit_index][order])
        order, state = order[chosen], backend.select(state, np.array(chosen))
        assert backend.num_samples(state) == len(chosen)
    parts = [backend.run(0, backend.start(images[rows]))[1] for rows in np.split(np.arange(len(images)), [2 * backend.num_frames])]
    joined = backend.concat([backend.select(parts[1], np.array([2, 0])), parts[0]])
    assert backend.num_samples(joined) == 4
    for exit_index in (1, 2, 3):
        logits, joined = backend.run(exit_index, joined)
        _close(logits, expected[exit_index][[4, 2, 0, 1]])


def test_clips_come_as_frames_or_as_clips() -> None:
    one = exported('clips')
    backend, frames = OnnxRuntimeEngine(one.folder, num_threads=1), random_images(one, 2)
    clips = backend.start(frames.reshape(2, 3, 3, 48, 48))
    assert clips.num_samples == 2 and np.array_equal(clips.arrays['images'], frames)
    rows = backend.select(clips, np.array([1])).arrays['images']
    assert np.array_equal(rows, frames[3:])
    with pytest.raises(EngineError, match=r'shape \(4, 3, 48, 48\): pass images as \(S, 3, H, W\), frames of clips as \(clips \* 3, '):
        backend.start(frames[:4])
    with pytest.raises(EngineError, match=r'shape \(2, 4, 3, 48, 48\): pass images as'):
        backend.start(np.zeros((2, 4, 3, 48, 48), np.float32))


def test_arrays_of_any_float_and_layout(backend: OnnxRuntimeEngine) -> None:
    images = random_images(exported('resnet'), 2)
    expected = backend.run(0, backend.start(images))[0]
    assert backend.start(images).arrays['images'] is images, 'no copy'
    strided = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    tensors = torch.from_numpy(images), torch.from_numpy(strided)
    for given in (images.astype(np.float64), *tensors, images.astype('>f4'), strided, list(images)):
        assert np.array_equal(backend.run(0, backend.start(given))[0], expected)


@pytest.mark.parametrize(
    ('images', 'message'),
    [
        (np.zeros((1, 3, 64, 64), np.uint8), r'type uint8: pass normalised images .*mean=\[123\.675, 116\.28, 103\.53\], std=\[58\.395'),
        (np.zeros((1, 3, 64, 64), bool), r'type bool: pass normalised'),
        (np.zeros((1, 3, 32, 64), np.float32), r'32x64 pixels .* exported for 64x64; resize .* tools/export\.py --shape 32 64'),
        (np.zeros((3, 64, 64), np.float32), r'shape \(3, 64, 64\): pass images as \(S, 3, H, W\)$'),
        (np.zeros((1, 64, 64, 3), np.float32), r'shape \(1, 64, 64, 3\): pass'),
        (torch.zeros(1, 3, 64, 64, requires_grad=True), r'type Tensor cannot be taken as a NumPy array \(.*\); pass a NumPy array'),
        (torch.zeros(1, 3, 64, 64, dtype=torch.bfloat16), r'type Tensor cannot be taken as a NumPy array'),
        ([np.zeros((3, 64, 64)), np.zeros((3, 64, 65))], r'type list cannot be taken as a NumPy array'),
    ],
)
def test_what_are_no_images_is_refused(backend: OnnxRuntimeEngine, images: Any, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        backend.start(images)


def test_empty_batches_give_empty_answers() -> None:
    one = exported('resnet')
    backend = OnnxRuntimeEngine(one.folder)
    state = backend.start(random_images(one, 0))
    for exit_index in range(4):
        logits, state = backend.run(exit_index, state)
        assert (logits.shape, logits.dtype, backend.num_samples(state)) == ((0, 5), np.float32, 0)
    assert backend.num_loaded == 0
    full = backend.run(0, backend.start(random_images(one, 2)))[1]
    assert backend.num_samples(backend.concat([state, full, state])) == 2
    assert backend.num_samples(backend.concat([state, state])) == 0


def test_states_of_other_segments_are_refused(backend: OnnxRuntimeEngine) -> None:
    start = backend.start(random_images(exported('resnet'), 1))
    after = backend.run(0, start)[1]
    with pytest.raises(EngineError, match=r'segment 2 got a state without feature, latent, previous_logits; .* that segment 1 returned'):
        backend.run(1, start)
    with pytest.raises(EngineError, match=r'segment 1 got a state without images; pass it the state that start\(\) returned'):
        backend.run(0, after)
    with pytest.raises(EngineError, match=r'do not belong together'):
        backend.concat([start, after])


def test_damaged_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    def refused(message: str, path: Path = folder) -> None:
        with pytest.raises(EngineError, match=message):
            OnnxRuntimeEngine(path)

    refused(r'none is no exported network: there is no such folder; check the path, or write it with tools/export\.py', tmp_path / 'none')
    (folder / 'segment3.onnx').write_bytes((folder / 'segment3.onnx').read_bytes()[:-1] + b'x')
    refused(r'segment3\.onnx is not the file that was exported: its SHA-256 .* tools/export\.py')
    (folder / 'segment3.onnx').unlink()
    refused(r'segment3\.onnx is missing, which manifest\.json lists; copy the whole folder, or export .* tools/export\.py')
    (folder / 'manifest.json').write_text('{"format":')
    refused(r'manifest\.json cannot be read as JSON \(.*tools/export\.py')
    (folder / 'manifest.json').unlink()
    refused(r'net is no exported network: it has no manifest\.json')


def _edit(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(content: Any) -> None:
        for step in path[:-1]:
            content = content[step]
        content[path[-1]] = value

    return edit


@pytest.mark.parametrize(
    ('edit', 'message'),
    [
        (_edit('format', value='other'), r'is no manifest: "format" must be "dynperceiver exported segments"'),
        (_edit('version', value=2), r'is of version 2, and this package reads version 1; update the older of the two, or export'),
        (_edit('extra', value=1), r'the manifest has \[.*extra.*\], where exactly \['),
        (lambda content: content.pop('num_frames'), r'the manifest has .*where exactly .*num_frames'),
        (_edit('num_classes', value=True), r'"num_classes" of the manifest is True, where a positive whole number belongs; export'),
        (_edit('image_size', value=[64]), r'"image_size" of the manifest is \[64\], where height and width'),
        (_edit('segments', 1, 'file', value='../segment2.onnx'), r'"file" of segment 2 is .* where the name of an \.onnx file in'),
        (_edit('segments', 1, 'sha256', value='0'), r'"sha256" of segment 2'),
        (_edit('segments', 1, value=7), r'segment 2 has int, where exactly'),
        (_edit('segments', 0, 'updates', value={'feature': 'logits'}), r'segment 2 needs latent, previous_logits, which no segment before'),
        (_edit('cost_gflops', value=[1.0]), r'has 1 cost_gflops for 4 segments'),
        (_edit('class_names', value=['a']), r'has 1 class_names for 5 classes'),
    ],
)
def test_manifests_are_checked(folder: Path, edit: Callable[[Any], Any], message: str) -> None:
    content = json.loads((folder / 'manifest.json').read_text())
    edit(content)
    (folder / 'manifest.json').write_text(json.dumps(content))
    with pytest.raises(EngineError, match=message):
        OnnxRuntimeEngine(folder)


def _exchange(folder: Path, content: bytes) -> OnnxRuntimeEngine:
    """A backend on a folder whose first graph is another, and whose manifest says so."""
    (folder / 'segment1.onnx').write_bytes(content)
    manifest = json.loads((folder / 'manifest.json').read_text())
    manifest['segments'][0]['sha256'] = hashlib.sha256(content).hexdigest()
    (folder / 'manifest.json').write_text(json.dumps(manifest))
    return OnnxRuntimeEngine(folder)


def test_graphs_that_do_not_load_are_named(folder: Path) -> None:
    images = random_images(exported('resnet'), 1)
    spoiled = _exchange(folder, b'no graph')
    with pytest.raises(EngineError, match=r'segment1\.onnx cannot be loaded by ONNX Runtime \d.*update onnxruntime, or .* --opset'):
        spoiled.run(0, spoiled.start(images))
    spoiled = _exchange(folder, (folder / 'segment2.onnx').read_bytes())
    with pytest.raises(EngineError, match=r'segment1\.onnx has the inputs and outputs .*, and manifest\.json lists others'):
        spoiled.run(0, spoiled.start(images))


@pytest.mark.parametrize('number', [0, -1, 1.5, True])
def test_number_of_threads_is_checked(number: Any) -> None:
    with pytest.raises(EngineError, match=rf'num_threads={number}: pass a whole number of 1 or more'):
        OnnxRuntimeEngine(exported('resnet').folder, num_threads=number)


def test_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    one = exported('resnet')
    monkeypatch.setenv('OMP_NUM_THREADS', '3,1')
    assert OnnxRuntimeEngine(one.folder).num_threads == 3
    for value in ('', 'x', '0'):
        monkeypatch.setenv('OMP_NUM_THREADS', value)
        monkeypatch.setattr('os.sched_getaffinity', lambda process: {2, 5})
        assert OnnxRuntimeEngine(one.folder).num_threads == 2
    backend = OnnxRuntimeEngine(one.folder, num_threads=4)
    backend.run(0, backend.start(random_images(one, 1)))
    options = backend._sessions.get(0, _refuse).get_session_options()
    assert options.intra_op_num_threads == 4 and options.get_session_config_entry('session.force_spinning_stop') == '1'


def test_missing_onnx_runtime_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(EngineError, match=r"backend='onnxruntime' needs ONNX Runtime.*install it: pip install onnxruntime"):
        OnnxRuntimeEngine(exported('resnet').folder)


def test_copies_load_their_own_graphs(backend: OnnxRuntimeEngine) -> None:
    images = random_images(exported('resnet'), 1)
    expected = backend.run(0, backend.start(images))[0]
    copy = pickle.loads(pickle.dumps(backend))
    assert copy.num_loaded == 0 and copy.num_threads == backend.num_threads
    assert np.array_equal(copy.run(0, copy.start(images))[0], expected)


IN_A_PROCESS = """\
import sys
import numpy as np
import onnxruntime
{before}
from dynperceiver_runtime.engines.onnx_runtime import OnnxRuntimeEngine
backend = OnnxRuntimeEngine({folder!r}, num_threads=2)
images, logits = np.load({images!r}), []
state = backend.start(images)
for exit_index in range(4):
    result, state = backend.run(exit_index, state)
    logits.append(result)
np.save({images!r}, np.stack(logits))
assert not [name for name in sys.modules if name.partition('.')[0] in ('torch', 'onnx', 'mmengine')]
"""
@pytest.mark.parametrize('before', ['', 'onnxruntime.set_global_thread_pool_sizes(2, 1)'], ids=['alone', "in a program's own pool"])
def test_serving_needs_no_torch(before: str, tmp_path: Path) -> None:
    one = exported('resnet')
    images = random_images(one, 2)
    np.save(tmp_path / 'images.npy', images)
    code = IN_A_PROCESS.format(before=before, folder=str(one.folder), images=str(tmp_path / 'images.npy'))
    paths = ':'.join(map(str, SOURCES))
    subprocess.run([sys.executable, '-c', code], check=True, timeout=60, env={'PYTHONPATH': paths, 'PATH': '/usr/bin:/bin'})
    _close(np.load(tmp_path / 'images.npy'), np.stack(all_logits(one.network, images)))


def test_states_are_plain_data(backend: OnnxRuntimeEngine) -> None:
    logits, state = backend.run(0, backend.start(random_images(exported('resnet'), 2)))
    assert isinstance(state, OnnxState) and {name: array.shape for name, array in state.arrays.items()} == {
        'feature': (2, 8, 8, 16), 'latent': (2, 4, 16), 'previous_logits': (2, 5)}  # fmt: skip
    assert state.arrays['previous_logits'] is logits


def test_graphs_that_were_exchanged_meanwhile_are_refused(folder: Path, backend: OnnxRuntimeEngine) -> None:
    """Segments are read when they are reached: those of two checkpoints must never answer together."""
    one, late = exported('resnet'), OnnxRuntimeEngine(folder)
    state = late.start(random_images(one, 1))
    _, state = late.run(0, state)
    path = folder / 'segment2.onnx'
    path.write_bytes(path.read_bytes() + b'\0')
    with pytest.raises(EngineError, match=r'segment2\.onnx is not the file that was exported.*start this program again'):
        late.run(1, state)
    path.unlink()
    with pytest.raises(EngineError, match=r'segment2\.onnx is missing'):
        late.run(1, state)


def test_a_relative_folder_is_found_from_elsewhere(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = exported('resnet')
    monkeypatch.chdir(folder.parent)
    late = OnnxRuntimeEngine(folder.name)
    monkeypatch.chdir('/')
    late.run(0, late.start(random_images(one, 1)))


def test_graphs_in_memory_are_checked_as_files_are(backend: OnnxRuntimeEngine) -> None:
    one = exported('resnet')
    graphs = {entry.file: (one.folder / entry.file).read_bytes() for entry in backend.manifest.segments}
    in_memory = OnnxRuntimeEngine.from_graphs(backend.manifest, graphs, num_threads=1)
    images = random_images(one, 2)
    assert np.array_equal(in_memory.run(0, in_memory.start(images))[0], backend.run(0, backend.start(images))[0])
    assert in_memory.stored_policy is None
    with pytest.raises(EngineError, match=r'^segment2\.onnx is not the file that was exported'):
        OnnxRuntimeEngine.from_graphs(backend.manifest, {**graphs, 'segment2.onnx': b''})
    del graphs['segment3.onnx']
    with pytest.raises(EngineError, match=r'^segment3\.onnx is missing, which manifest\.json lists'):
        OnnxRuntimeEngine.from_graphs(backend.manifest, graphs)
