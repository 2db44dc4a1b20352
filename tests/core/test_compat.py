"""MMEngine's checkpoints under torch's weights-only reading."""

import argparse
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub

from dynperceiver import compat

LOAD = 'import sys, torch; print(torch.load(sys.argv[1], weights_only=True)["message_hub"]["log_scalars"]["train/loss"].mean())'
APPLY = 'from dynperceiver import compat; compat.apply(); compat.apply(); '


class Asks:
    """Pickles as a call of ``getattr``, as a malicious checkpoint would."""

    def __init__(self, owner, name):
        self.arguments = (owner, name)

    def __reduce__(self):
        return getattr, self.arguments


@pytest.fixture
def checkpoint(tmp_path):
    hub = MessageHub('test_compat')
    hub.update_scalar('train/loss', 1.5, 2)
    hub.update_scalar('train/accuracy', torch.tensor(0.25))
    hub.update_info('iter', 7)
    path = tmp_path / 'epoch_1.pth'
    torch.save({'state_dict': {'weight': torch.ones(2)}, 'message_hub': hub.state_dict()}, path)
    return path


@pytest.fixture
def safe():
    return {f'{function.__module__}.{function.__name__}': function for function in compat.safe_callables()}


def run(code, *arguments, **environment):
    command = [sys.executable, '-c', code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def test_a_checkpoint_of_mmengine_is_refused_without_and_read_with_the_repair(checkpoint):
    without, repaired = run(LOAD, checkpoint), run(APPLY + LOAD, checkpoint)
    assert without.returncode != 0 and 'HistoryBuffer' in without.stderr  # if this is read nowadays, the repair can go
    assert (repaired.returncode, repaired.stdout.strip()) == (0, '0.75'), repaired.stderr


@pytest.mark.parametrize(
    'imports', ['import dynperceiver, torch', 'import torch, dynperceiver', 'import mmengine, dynperceiver, torch']
)
def test_checkpoints_are_read_whatever_the_order_of_imports(checkpoint, imports):
    result = run(f'{imports}; {LOAD}', checkpoint)
    assert (result.returncode, result.stdout.strip()) == (0, '0.75'), result.stderr


def test_mmengine_resumes_after_the_import_of_the_package_alone(checkpoint):
    code = 'import sys, dynperceiver; from mmengine.runner import CheckpointLoader; '
    code += 'print(CheckpointLoader.load_checkpoint(sys.argv[1], map_location="cpu")["message_hub"]["runtime_info"]["iter"])'
    result = run(code, checkpoint)
    assert result.returncode == 0 and result.stdout.split()[-1] == '7', result.stderr


FAKE_TORCH = """
from . import serialization
from .serialization import counts
"""
FAKE_SERIALIZATION = 'counts = []\ndef add_safe_globals(items):\n    counts.append(len(items))\n'


@pytest.fixture
def fake_torch(tmp_path):
    """Folder with a package torch that has nothing but an allow-list, which counts."""
    folder = tmp_path / 'fake' / 'torch'
    folder.mkdir(parents=True)
    (folder / '__init__.py').write_text(FAKE_TORCH)
    (folder / 'serialization.py').write_text(FAKE_SERIALIZATION)
    return folder


def run_with(fake_torch, code):
    paths = [str(fake_torch.parent), *filter(None, [os.environ.get('PYTHONPATH')])]
    result = run(code, PYTHONPATH=os.pathsep.join(paths))
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


@pytest.mark.parametrize('imports', ['import dynperceiver, torch', 'import torch, dynperceiver'])
def test_a_broken_mmengine_is_no_error_of_torch(fake_torch, imports):
    (fake_torch.parent / 'mmengine').mkdir()
    (fake_torch.parent / 'mmengine' / '__init__.py').write_text('raise AttributeError("np.sctypes is gone")')
    assert run_with(fake_torch, f'{imports}; print(len(torch.counts))') == ['0']


def test_a_missing_torch_is_missing_as_ever():
    script = 'import sys; sys.path[:0] = [sys.argv[1]]; import dynperceiver; import torch'
    result = subprocess.run([sys.executable, '-S', '-c', script, Path(compat.__file__).parents[1]], capture_output=True, text=True)
    assert "ModuleNotFoundError: No module named 'torch'" in result.stderr


@pytest.mark.parametrize('name', compat.STATISTICS)
def test_getattr_hands_out_the_statistics_of_history_buffers(safe, name):
    assert safe['builtins.getattr'](HistoryBuffer, name) is getattr(HistoryBuffer, name)


@pytest.mark.parametrize(
    ('owner', 'name'), [(HistoryBuffer, 'update'), (HistoryBuffer, '__init__'), (HistoryBuffer([1], [1]), 'mean'), (torch.Tensor, 'mean')]
)
def test_getattr_refuses_everything_else(safe, owner, name):
    with pytest.raises(pickle.UnpicklingError, match=rf"the attribute '{name}' of .*only current, max, mean, min .*torch\.save"):
        safe['builtins.getattr'](owner, name)


@pytest.mark.parametrize('request_', [Asks(HistoryBuffer, 'register_statistics'), Asks(torch.Tensor, 'mean')])
def test_a_checkpoint_that_asks_for_more_is_refused(tmp_path, request_):
    compat.apply()
    torch.save({'state_dict': {}, 'message_hub': request_}, tmp_path / 'evil.pth')
    with pytest.raises(pickle.UnpicklingError, match=r'the attribute|Unsupported global'):
        torch.load(tmp_path / 'evil.pth', weights_only=True)


def test_the_command_line_in_a_published_checkpoint_is_read(tmp_path):
    given = argparse.Namespace(lr=1e-3, model='reg800m', sizes=[1, 2])
    torch.save({'model': {'latent': torch.zeros(2)}, 'args': given}, tmp_path / 'published.pth')
    compat.apply()
    assert torch.load(tmp_path / 'published.pth', weights_only=True)['args'] == given


def test_the_names_are_distinct_and_readable_by_every_torch_that_has_the_list(safe):
    assert len(safe) == len(compat.safe_callables())
    assert not any(isinstance(item, tuple) for item in compat.safe_callables())  # torch 2.4 and 2.5 fail on pairs
    assert {'builtins.getattr', 'mmengine.logging.history_buffer.HistoryBuffer', 'numpy.ndarray', 'numpy.dtype'} < set(safe)
    assert {f'numpy.{core}.multiarray.{name}' for core in ('core', '_core') for name in ('_reconstruct', 'scalar')} < set(safe)
    assert 'numpy.dtypes.Float64DType' in safe and 'numpy.dtypes.ObjectDType' not in safe


def test_applying_twice_adds_nothing_and_applying_again_repairs():
    before = torch.serialization.get_safe_globals()
    try:
        torch.serialization.clear_safe_globals()
        compat.apply()
        once = torch.serialization.get_safe_globals()
        compat.apply()
        assert len(torch.serialization.get_safe_globals()) == len(once) == len(compat.safe_callables())
    finally:
        torch.serialization.add_safe_globals(before)


def test_a_torch_without_the_list_is_left_alone(monkeypatch):
    monkeypatch.delattr(torch.serialization, 'add_safe_globals')
    compat.apply()


def test_without_mmengine_nothing_is_added(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmengine', None)
    monkeypatch.setattr(torch.serialization, 'add_safe_globals', lambda items: pytest.fail(f'added {items}'))
    compat.apply()
