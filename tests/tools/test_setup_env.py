"""Set-up: what it refuses, what it runs and in which order, when it runs at all, and what the requirement files promise."""

import importlib.util
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings the same under its older name
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location('setup_env', ROOT / 'tools' / 'setup_env.py')
setup_env = importlib.util.module_from_spec(spec)
spec.loader.exec_module(setup_env)

ALL = {'venv', 'ensurepip'}
OPENMMLAB = {'mmengine', 'mmcv', 'mmdet', 'mmaction2'}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A small copy of the repository as far as set-up looks at it; commands are recorded and succeed."""
    for name, text in {
        'requirements/constraints.txt': 'torch==1\nmmcv==2.1.0\n',
        'requirements/stack.txt': 'torch\n',
        'packages/action/pyproject.toml': '[project]\n',
        'packages/core/pyproject.toml': '[project]\n',
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(setup_env, 'ROOT', tmp_path)
    monkeypatch.setattr(setup_env, 'problems', lambda *facts: [])
    monkeypatch.setattr(setup_env, 'usable', lambda python: python.exists())
    monkeypatch.delenv('TORCH_INDEX', raising=False)
    return tmp_path


@pytest.fixture
def calls(monkeypatch):
    """Commands that set-up starts; ``fail_at`` makes the n-th of them fail."""

    class Recorder(list):
        fail_at = None

        def __call__(self, command, cwd=None):
            self.append(list(map(str, command)))
            if command[1:3] == ['-m', 'venv']:
                (Path(command[-1]) / 'bin').mkdir(parents=True)
                (Path(command[-1]) / 'bin' / 'python').touch()
            return 1 if len(self) == self.fail_at else 0

    recorder = Recorder()
    monkeypatch.setattr(setup_env.subprocess, 'call', recorder)
    return recorder


@pytest.mark.parametrize('version', [(3, 9, 18), (3, 13, 0), (2, 7, 18)])
def test_an_unsupported_python_is_named_with_rule_and_remedy(version):
    (fault,) = setup_env.problems(version, set(), False, False)
    assert 'is Python ' + '.'.join(map(str, version)) in fault
    assert 'needs 3.10, 3.11 or 3.12' in fault and 'make setup PYTHON=python3.11' in fault


@pytest.mark.parametrize('version', [(3, 10, 0), (3, 11, 7), (3, 12, 1)])
def test_a_supported_python_is_accepted(version):
    assert setup_env.problems(version, ALL, True, True) == []


def test_all_that_is_missing_is_named_at_once_with_what_to_type():
    faults = setup_env.problems((3, 12, 1), set(), False, False)
    assert [fault.split('apt-get install ')[1] for fault in faults] == ['python3.12-venv', 'g++', 'python3.12-dev']
    assert 'lacks ensurepip and venv' in faults[0]
    assert 'lacks ensurepip;' in setup_env.problems((3, 12, 1), {'venv'}, True, True)[0]


def test_the_fingerprint_follows_everything_that_decides_what_is_installed(tree):
    seen = {setup_env.fingerprint(tree)}
    for name in ('requirements/stack.txt', 'packages/core/pyproject.toml', 'requirements/new.txt', 'packages/new/pyproject.toml'):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text('changed\n')
        seen.add(setup_env.fingerprint(tree))
    assert len(seen) == 5
    (tree / 'packages/core/unrelated.py').touch()
    assert setup_env.fingerprint(tree) in seen


def test_a_copy_elsewhere_is_set_up_anew(tree, tmp_path_factory):
    copy = tmp_path_factory.mktemp('copy')
    for folder in ('requirements', 'packages'):
        setup_env.shutil.copytree(tree / folder, copy / folder)
    assert setup_env.fingerprint(copy) != setup_env.fingerprint(tree)


def test_the_plan_is_in_the_order_that_keeps_torch_and_one_opencv():
    titles, commands = zip(*setup_env.plan(ROOT, 'py', None), strict=True)
    pip = [command for command in commands if 'pip' in command]
    words = ('torch', 'libraries', 'MMEngine', 'mmcv', 'packages')
    order = [next(index for index, title in enumerate(titles) if word in title) for word in words]
    assert order == sorted(order)
    assert all(command[command.index('-c') + 1].endswith('constraints.txt') for command in pip)
    no_deps = {title.split()[0] for title, command in zip(titles, commands, strict=True) if '--no-deps' in command}
    assert no_deps == {'torch', 'MMEngine,', 'the'}
    assert commands[order[3]][1].endswith('build_mmcv.py') and commands[order[3]][-2:] == ['--version', '2.1.0']
    assert '--no-build-isolation' in commands[-1] and commands[-1].count('-e') == len(list(ROOT.glob('packages/*/pyproject.toml')))


def test_the_torch_index_is_for_torch_alone():
    commands = [command for _, command in setup_env.plan(ROOT, 'py', 'https://index.example/cpu') if '--index-url' in command]
    assert len(commands) == 1 and commands[0][-3:] == ['--index-url', 'https://index.example/cpu', 'torch']
    assert not any('--index-url' in command for _, command in setup_env.plan(ROOT, 'py', None))


def test_constraints_without_mmcv_are_refused(tree):
    (tree / 'requirements/constraints.txt').write_text('torch==1\n')
    with pytest.raises(ValueError, match=r'pins no mmcv: it needs a line such as mmcv==2\.1\.0'):
        setup_env.plan(tree, 'py', None)


def test_a_finished_setup_is_left_alone_until_something_changes(tree, calls, capsys):
    assert setup_env.main([]) == 0
    first = len(calls)
    assert first == 7 and '[7/7] the packages' in capsys.readouterr().out
    assert setup_env.main([]) == 0 and len(calls) == first and capsys.readouterr().out == ''
    (tree / 'requirements/stack.txt').write_text('torch\nnumpy\n')
    assert setup_env.main([]) == 0 and len(calls) == first + 6  # .venv itself is kept
    assert setup_env.main(['--force']) == 0 and len(calls) == first + 12


def test_an_interrupted_setup_goes_on(tree, calls, capsys):
    calls.fail_at = 3
    assert setup_env.main([]) == 1 and len(calls) == 3
    assert 'set-up stopped at step 3 (torch' in capsys.readouterr().err
    assert setup_env.main([]) == 0 and len(calls) == 3 + 6
    calls.fail_at = len(calls) + 2
    assert setup_env.main(['--force']) == 1
    assert setup_env.main([]) == 0 and len(calls) == 3 + 6 + 2 + 6  # the stamp of the run before did not survive


def test_faults_stop_it_before_anything_is_made(tree, calls, monkeypatch, capsys):
    monkeypatch.setattr(setup_env, 'problems', lambda *facts: ['no compiler', 'no venv'])
    assert setup_env.main([]) == 1 and not calls and not (tree / '.venv').exists()
    assert capsys.readouterr().err.splitlines() == ['set-up cannot start: no compiler', 'set-up cannot start: no venv']


def test_a_broken_environment_is_not_usable(tmp_path):
    assert not setup_env.__dict__['usable'](tmp_path / 'python')
    broken = tmp_path / 'python'
    broken.write_text('#!/bin/sh\nexit 1\n')
    broken.chmod(0o755)
    assert not setup_env.usable(broken) and setup_env.usable(Path(sys.executable))


def names(file):
    lines = (re.sub(r'#.*', '', line).strip() for line in (ROOT / 'requirements' / file).read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def test_everything_that_is_installed_is_pinned_exactly_once_per_python():
    pins = {}
    for requirement in names('constraints.txt'):
        assert [specifier.operator for specifier in requirement.specifier] == ['=='], f'{requirement} is no exact pin'
        for python in ('3.10', '3.11', '3.12'):
            if requirement.marker is None or requirement.marker.evaluate({'python_version': python}):
                key = (canonicalize_name(requirement.name), python)
                assert pins.setdefault(key, requirement) is requirement, f'{key} is pinned twice'
    pinned = {name for name, _ in pins}
    todo, seen = [requirement.name for file in ('stack.txt', 'nodeps.txt', 'dev.txt') for requirement in names(file)], set()
    asked_by_nodeps = {'opencv-python', 'opencv-contrib-python'}
    while todo:
        name = canonicalize_name(todo.pop())
        if name in seen or name in asked_by_nodeps or name.startswith(('nvidia-', 'cuda-', 'triton')):  # those come exactly with torch
            continue
        seen.add(name)
        assert name in pinned, f'{name} gets installed but requirements/constraints.txt does not pin it'
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        todo += [need.name for need in map(Requirement, needs) if need.marker is None or need.marker.evaluate({'extra': ''})]


@pytest.mark.parametrize('project', sorted(ROOT.glob('packages/*/pyproject.toml')), ids=lambda path: path.parent.name)
def test_installing_a_package_of_ours_cannot_bring_an_opencv(project):
    settings = tomllib.loads(project.read_text())['project']
    needs = {canonicalize_name(Requirement(need).name) for need in settings['dependencies']}
    assert not needs & OPENMMLAB and not any('opencv' in need for need in needs)
    assert settings['requires-python'] == '>=3.10' and settings['version'] == '0.1.0' and settings['license'] == 'Apache-2.0'
    assert list(project.parent.glob('src/*/py.typed'))


def test_make_lists_its_targets():
    result = subprocess.run(['make', '-s', '-C', ROOT, 'help'], capture_output=True, text=True)
    assert {line.split()[1] for line in result.stdout.splitlines()} >= {'help', 'setup', 'demo', 'test', 'lint', 'clean'}
