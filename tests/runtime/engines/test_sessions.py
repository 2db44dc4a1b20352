"""Graphs loaded into ONNX Runtime: pools of threads, callers in several threads, and processes that fork."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported_networks import all_logits, exported, random_images

from dynperceiver_runtime.engines.onnx_runtime import OnnxRuntimeEngine
from dynperceiver_runtime.engines.sessions import import_onnxruntime

SHARED_POOL = """
import sys
import numpy as np
import onnxruntime
from dynperceiver_runtime import DynamicRunner, EngineError
made = []
init = onnxruntime.InferenceSession.__init__
def note(self, content, options, **settings):
    made.append(options.use_per_session_threads)
    init(self, content, options, **settings)
onnxruntime.InferenceSession.__init__ = note
images = np.load(sys.argv[2])
shared = DynamicRunner(sys.argv[1], num_threads=2, shared_pool=True)
np.save(sys.argv[3], shared(images).logits)
assert made == [False] * 4, made
again = DynamicRunner(sys.argv[1], num_threads=2, shared_pool=True)
assert np.array_equal(again(images).logits, shared(images).logits)
plain = DynamicRunner(sys.argv[1], num_threads=3)  # joins the pool, as ONNX Runtime asks for
assert np.allclose(plain(images).logits, shared(images).logits)
try:
    DynamicRunner(sys.argv[1], num_threads=3, shared_pool=True)
except EngineError as error:
    assert 'has 2 threads already' in str(error) and 'pass num_threads=2' in str(error), error
else:
    raise AssertionError('a second pool')
"""


def test_one_pool_for_all_graphs(tmp_path: Path) -> None:
    """In a process of its own, whose only pool it is."""
    one = exported('resnet')
    images, answers = tmp_path / 'images.npy', tmp_path / 'logits.npy'
    np.save(images, random_images(one, 2))
    subprocess.run([sys.executable, '-c', SHARED_POOL, str(one.folder), str(images), str(answers)], check=True)
    np.testing.assert_allclose(np.load(answers), all_logits(one.network, np.load(images))[3], rtol=0, atol=1e-4)


FORKS = """
import ctypes, gc, multiprocessing, os, sys, time
import numpy as np
from dynperceiver_runtime import OnnxRuntimeEngine

folder, images, num_threads, shared_pool = sys.argv[1], np.load(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == 'shared'
engine = OnnxRuntimeEngine(folder, num_threads, shared_pool)

def answer(*_):
    state, logits = engine.start(images), []
    for exit_index in range(4):
        result, state = engine.run(exit_index, state)
        logits.append(result)
    return np.stack(logits)

expected = answer()

def wait(process, what):
    until = time.monotonic() + 30
    while time.monotonic() < until:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(process, 9)
    raise AssertionError(f'the child hangs: {what}')

def check():
    assert np.allclose(answer(), expected, atol=1e-5)

for runs in (False, True):
    for way, status in (('end', 0), ('exit', 3), ('drop', 3), ('error', 1), ('grandchild', 3), ('printf', 3)):
        child = os.fork()
        if child:
            assert wait(child, (way, runs)) == status, (way, runs)
            check()
            continue
        sys.stderr = open(os.devnull, 'w')
        if runs:
            check()
        if way == 'end':
            break
        if way == 'error':
            raise ValueError('its traceback is of no interest here')
        if way == 'grandchild':
            child = os.fork()
            if child:
                sys.exit(wait(child, 'grandchild'))
            if runs:
                check()
        if way == 'drop':
            del engine
            gc.collect()
        if way == 'printf':
            ctypes.CDLL(None).printf(b'from C\\n')
        sys.exit(3)
    else:
        continue
    break
else:
    with multiprocessing.get_context('fork').Pool(2) as pool:
        assert all(np.allclose(logits, expected, atol=1e-5) for logits in pool.map(answer, range(3)))
    print('all ended', flush=True)
"""


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='what is promised for Linux')
@pytest.mark.parametrize('pool', ['own', 'shared'])
@pytest.mark.parametrize('num_threads', [1, 2])
def test_forked_processes_run_and_end_in_any_way(pool: str, num_threads: int, tmp_path: Path) -> None:
    one = exported('resnet')
    np.save(tmp_path / 'images.npy', random_images(one, 2))
    command = [sys.executable, '-c', FORKS, str(one.folder), str(tmp_path / 'images.npy'), str(num_threads), pool]
    environment = {**os.environ, 'OMP_NUM_THREADS': str(num_threads)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ['from C', 'from C', 'all ended'], 'once each, and nothing of the parent twice'


def test_telemetry_is_the_programs_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('ORT_DISABLE_TELEMETRY', raising=False)
    import_onnxruntime()
    assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'
    monkeypatch.setenv('ORT_DISABLE_TELEMETRY', '0')
    import_onnxruntime()
    assert os.environ['ORT_DISABLE_TELEMETRY'] == '0'


def test_threads_share_what_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    one, loaded = exported('resnet'), []
    engine = OnnxRuntimeEngine(one.folder, num_threads=1)
    load = OnnxRuntimeEngine._load

    def slowly(self: OnnxRuntimeEngine, exit_index: int) -> Any:
        loaded.append(exit_index)
        time.sleep(0.05)
        return load(self, exit_index)

    monkeypatch.setattr(OnnxRuntimeEngine, '_load', slowly)
    images = random_images(one, 2)
    with ThreadPoolExecutor(4) as pool:
        logits = list(pool.map(lambda _: engine.run(0, engine.start(images))[0], range(8)))
    assert loaded == [0] and all(np.array_equal(one, logits[0]) for one in logits)
