"""``import dynperceiver`` costs next to nothing, and everything is there when it is asked for."""

from __future__ import annotations

import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import dynperceiver

MODULES = sorted(module.name for module in pkgutil.walk_packages(dynperceiver.__path__, 'dynperceiver.'))
PUBLIC_PARTS = {name.split('.')[1] for name in MODULES if name.count('.') == 1}
HEAVY = ('torch', 'mmengine')
BLOCK = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name in blocked or name.split('.')[0] in blocked:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)

sys.meta_path.insert(0, Blocker())
"""


def run(code: str) -> list[str]:
    """What a fresh process prints, line by line; a warning is an error in it."""
    result = subprocess.run([sys.executable, '-W', 'error', '-c', code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    return result.stdout.splitlines()


TORCH_FREE = ('compat', 'doctor', 'inference', 'inference.policies', 'inference.calibration', 'inference.backends.onnx_runtime')


@pytest.mark.parametrize('module', ['dynperceiver', *(f'dynperceiver.{name}' for name in TORCH_FREE)])
def test_neither_torch_nor_mmengine_is_imported(module: str) -> None:
    (line,) = run(f'import {module}, sys; print([name for name in {HEAVY} if name in sys.modules])')
    assert line == '[]'


@pytest.mark.parametrize('blocked', [('torch',), ('mmengine',), ('torch', 'mmengine', 'numpy')])
def test_without_them_it_imports_and_says_what_a_part_needs(blocked: tuple[str, ...]) -> None:
    code = f"""
blocked = {blocked}
{BLOCK}
import dynperceiver
{'' if 'numpy' in blocked else 'import dynperceiver.inference'}
for name in ('DynPerceiver', 'hooks', 'losses'):
    try:
        getattr(dynperceiver, name)
    except ImportError as error:
        print(error)
try:
    from dynperceiver import DynPerceiver
except ImportError as error:
    print(error)
try:
    from dynperceiver import *
except ImportError as error:
    print(error)
"""
    lines = run(code)
    assert len(lines) == 5
    for line, name in zip(lines, ('DynPerceiver', 'hooks', 'losses', 'DynPerceiver', 'DynPerceiver'), strict=True):
        assert line.startswith(f'dynperceiver.{name} needs ') and line.split()[2].strip(',').split('.')[0] in blocked
        assert line.endswith(', which is missing; python -m dynperceiver.doctor says what to type')


def test_another_missing_module_is_not_taken_for_theirs() -> None:
    code = f"""
blocked = ('dynperceiver.layers.attention',)
{BLOCK}
import dynperceiver
try:
    dynperceiver.layers
except ImportError as error:
    print(type(error).__name__, error)
"""
    assert run(code) == ["ModuleNotFoundError No module named 'dynperceiver.layers.attention'"]


def test_every_part_and_every_name_is_there_on_access() -> None:
    code = f"""
import json, dynperceiver
before = dir(dynperceiver)
values = {{name: getattr(dynperceiver, name) for name in {sorted(PUBLIC_PARTS | set(dynperceiver.__all__))}}}
from dynperceiver import *
starred = sorted(name for name in dynperceiver.__all__ if globals()[name] is values[name])
print(json.dumps([before, {{name: getattr(value, '__name__', value) for name, value in values.items()}}, starred, __version__]))
"""
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    listed, values, starred, version = json.loads(result.stdout)
    assert {name: values[name] for name in PUBLIC_PARTS} == {name: f'dynperceiver.{name}' for name in PUBLIC_PARTS}
    assert {name: values[name] for name in dynperceiver._HOMES} == {name: name for name in dynperceiver._HOMES}
    assert PUBLIC_PARTS | set(dynperceiver.__all__) <= set(listed) and listed == sorted(listed)
    assert starred == sorted(dynperceiver.__all__) and version == dynperceiver.__version__


def test_what_is_listed_is_there() -> None:
    missing = {name for name in dynperceiver._PARTS if not (Path(dynperceiver.__path__[0], name).is_dir() or name in PUBLIC_PARTS)}
    assert not missing and set(dynperceiver._HOMES.values()) <= set(dynperceiver._PARTS)


@pytest.mark.parametrize('name', ['model', 'Models', '__wrapped__'])
def test_other_names_are_unknown(name: str) -> None:
    assert not hasattr(dynperceiver, name)
    with pytest.raises(AttributeError, match=f"module 'dynperceiver' has no attribute '{name}'"):
        getattr(dynperceiver, name)


def test_a_part_is_kept_once_it_was_used() -> None:
    dynperceiver.__dict__.pop('build_model', None)
    assert dynperceiver.build_model is dynperceiver.models.build_model is dynperceiver.__dict__['build_model']


@pytest.fixture(scope='module')
def faults() -> dict[str, str]:
    """What importing each module raised, in a process each in which torch and MMEngine, but nothing of ours, are imported."""
    code = f"""
import json, os, sys, tempfile
import cv2, matplotlib.figure, mmengine.runner, torch
faults = {{}}
for module in {MODULES}:
    with tempfile.TemporaryFile('w+') as file:
        child = os.fork()
        if not child:
            try:
                assert 'dynperceiver' not in sys.modules
                __import__(module)
            except BaseException as error:
                file.write(f'{{type(error).__name__}}: {{error}}')
                file.flush()
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        file.seek(0)
        faults[module] = file.read() or ('' if status == 0 else f'status {{status}}')
print(json.dumps(faults))
"""
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='the processes are forked')
@pytest.mark.parametrize('module', MODULES)
def test_every_module_can_be_the_first_to_be_imported(faults: dict[str, str], module: str) -> None:
    assert faults[module] == ''
