"""mmcv's wheel: where it is kept, which way of getting it is tried when, and that a failed build leaves nothing behind."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
PYTHON_TAG = f'cpython-{sys.version_info[0]}{sys.version_info[1]}'


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / 'tools' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


mmcv_wheel = load('mmcv_wheel')
build_mmcv = load('build_mmcv')


@pytest.fixture(autouse=True)
def private_cache(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    for name in ('MMCV_FIND_LINKS', 'MAX_JOBS'):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def attempts(monkeypatch):
    """Ways that were tried; those in ``failing`` fail as a build does."""

    class Attempts(list):
        failing = ()

    tried = Attempts()

    def make_wheel(kind, version, dest, log_path):
        tried.append(kind)
        if kind in tried.failing:
            raise subprocess.CalledProcessError(1, ['pip', 'wheel'], output=f'{kind}: error: no such header')
        dest.mkdir(parents=True, exist_ok=True)
        wheel = dest / f'mmcv-{version}-cp311-linux.whl'
        wheel.write_text(kind)
        return wheel

    monkeypatch.setattr(build_mmcv, 'make_wheel', make_wheel)
    return tried


def test_the_cache_is_keyed_by_all_that_the_binary_depends_on(tmp_path, monkeypatch):
    folder = mmcv_wheel.cache_folder('2.1.0', '2.13.0+cpu')
    assert folder.parent == tmp_path / 'cache' / 'dynperceiver' / 'wheels'
    assert folder.name == f'mmcv-2.1.0_torch-2.13.0+cpu_{PYTHON_TAG}_{os.uname().machine}'
    others = [mmcv_wheel.cache_folder('2.0.1', '2.13.0+cpu'), mmcv_wheel.cache_folder('2.1.0', '2.12.0+cpu')]
    others.append(mmcv_wheel.cache_folder('2.1.0', '2.13.0+cpu', cuda_ops=True))
    assert len({folder, *others}) == 4
    monkeypatch.setenv('XDG_CACHE_HOME', '')
    assert mmcv_wheel.cache_folder('2', '2').is_relative_to(Path.home() / '.cache')


def test_the_default_version_is_the_pinned_one():
    pin = re.search(r'^mmcv==(\S+)', (ROOT / 'requirements' / 'constraints.txt').read_text(), re.MULTILINE)[1]
    assert f"default='{pin}'" in (ROOT / 'tools' / 'build_mmcv.py').read_text()


def test_a_cached_wheel_is_taken_unless_a_rebuild_is_asked_for(tmp_path, attempts, capsys):
    folders = {'fast': tmp_path / 'wheels'}
    assert build_mmcv.find_or_make(folders, '2.1.0')[0] == 'fast'
    kind, wheel = build_mmcv.find_or_make(folders, '2.1.0')
    assert kind == 'fast' and wheel.parent == tmp_path / 'wheels' and attempts == ['fast']
    assert 'wheel found in the cache' in capsys.readouterr().out
    build_mmcv.find_or_make(folders, '2.1.0', rebuild=True)
    build_mmcv.find_or_make(folders, '2.0.1')
    assert attempts == ['fast'] * 3


def test_the_plain_build_follows_where_the_header_fails(tmp_path, attempts, capsys):
    attempts.failing = ('fast',)
    kind, wheel = build_mmcv.find_or_make({'fast': tmp_path, 'plain': tmp_path}, '2.1.0')
    assert (kind, wheel.read_text()) == ('plain', 'plain')
    assert 'fast: error: no such header' in capsys.readouterr().err


def test_without_a_compiler_the_exit_code_is_1_and_says_what_to_type(attempts, capsys):
    attempts.failing = tuple(mmcv_wheel.KINDS)
    assert build_mmcv.main(['--no-install']) == 1
    assert 'apt-get install g++ python3-dev' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('cuda', 'nvcc', 'links', 'arguments', 'ways'),
    [
        (None, '/usr/local/cuda', '', [], ['fast', 'plain']),
        (None, None, '', ['--plain'], ['plain']),
        ('13.0', '/usr/local/cuda', '', [], ['cuda', 'fast', 'plain']),
        ('13.0', None, '', [], ['fast', 'plain']),
        ('13.0', None, 'wheels', [], ['ready', 'fast', 'plain']),
    ],
)
def test_which_ways_are_tried_in_which_order(monkeypatch, attempts, cuda, nvcc, links, arguments, ways):
    attempts.failing = tuple(mmcv_wheel.KINDS)
    monkeypatch.setattr(torch.version, 'cuda', cuda)
    monkeypatch.setattr('torch.utils.cpp_extension.CUDA_HOME', nvcc)
    monkeypatch.setenv('MMCV_FIND_LINKS', links)
    build_mmcv.main(['--no-install', *arguments])
    assert attempts == ways


def test_a_wheel_with_cuda_ops_and_one_without_are_kept_apart(monkeypatch, attempts, capsys):
    monkeypatch.setattr(torch.version, 'cuda', '13.0')
    monkeypatch.setattr('torch.utils.cpp_extension.CUDA_HOME', None)
    assert build_mmcv.main(['--no-install']) == 0 and 'run on the CPU only' in capsys.readouterr().out
    monkeypatch.setattr('torch.utils.cpp_extension.CUDA_HOME', '/usr/local/cuda')
    assert build_mmcv.main(['--no-install']) == 0 and 'run on the CPU only' not in capsys.readouterr().out
    assert attempts == ['fast', 'cuda']


def test_the_wheel_is_installed_without_touching_anything_else(monkeypatch, attempts):
    commands = []
    monkeypatch.setattr(build_mmcv.subprocess, 'call', lambda command: commands.append(command) or 0)
    assert build_mmcv.main([]) == 0
    assert {'--no-deps', '--no-index', '--force-reinstall'} < set(commands[0]) and commands[0][-1].endswith('.whl')


@pytest.fixture
def builds(monkeypatch):
    """Commands of builds with their environment; each leaves the wheel named by ``wheel`` where pip was told to."""

    class Builds(list):
        wheel = 'mmcv-2.1.0-cp311-linux.whl'

    started = Builds()

    def run_logged(command, env, log_path):
        started.append((command, env))
        if '-w' in command and started.wheel:
            Path(command[command.index('-w') + 1], started.wheel).write_text('ops')

    monkeypatch.setattr(mmcv_wheel, 'run_logged', run_logged)
    return started


def test_the_fast_build_compiles_the_header_and_then_uses_it(builds, tmp_path):
    wheel = mmcv_wheel.make_wheel('fast', '2.1.0', tmp_path / 'dest', tmp_path / 'log')
    assert [path.name for path in (tmp_path / 'dest').iterdir()] == [wheel.name] and wheel.read_text() == 'ops'
    (header, _), (build, env) = builds
    assert header[-1].endswith('torch_types.h.gch') and 'c++-header' in header and '-O3' in header
    assert env['CFLAGS'].split()[-2:] == [header[-3], '-Winvalid-pch'] and '-O3' in env['CFLAGS']
    assert env['MMCV_WITH_OPS'] == '1' and env['FORCE_CUDA'] == '0' and env['CUDA_VISIBLE_DEVICES'] == ''
    assert {'--no-build-isolation', '--no-binary'} < set(build)


def test_the_stock_builds_use_no_header(builds, tmp_path, monkeypatch):
    monkeypatch.delenv('CFLAGS', raising=False)
    mmcv_wheel.make_wheel('plain', '2.1.0', tmp_path / 'dest', tmp_path / 'log')
    mmcv_wheel.make_wheel('cuda', '2.1.0', tmp_path / 'dest', tmp_path / 'log')
    assert [(env.get('CFLAGS'), env['FORCE_CUDA']) for _, env in builds] == [(None, '0'), (None, '1')]


def test_a_ready_wheel_comes_from_the_given_place_only(builds, tmp_path, monkeypatch):
    monkeypatch.setenv('MMCV_FIND_LINKS', 'vendor')
    mmcv_wheel.make_wheel('ready', '2.1.0', tmp_path / 'dest', tmp_path / 'log')
    ((command, _),) = builds
    assert command[-5:] == ['--only-binary', 'mmcv', '--no-index', '--find-links', 'vendor']


def test_a_build_without_a_wheel_leaves_nothing(builds, tmp_path):
    builds.wheel = None
    with pytest.raises(FileNotFoundError, match=r'no wheel of mmcv 2\.1\.0'):
        mmcv_wheel.make_wheel('plain', '2.1.0', tmp_path / 'dest', tmp_path / 'log')
    assert not (tmp_path / 'dest').exists()


def test_missing_build_tools_go_beside_the_build_and_nothing_installed_changes(monkeypatch, tmp_path):
    commands = []
    monkeypatch.setattr(mmcv_wheel, 'BUILD_TOOLS', {'no_such_module': 'setuptools<81', 'sys': 'wheel'})
    monkeypatch.setattr(mmcv_wheel.subprocess, 'run', lambda command, check: commands.append(command))
    env = mmcv_wheel.build_env(tmp_path, cuda_ops=False)
    assert commands[0][-3:] == ['--target', str(tmp_path / 'tools'), 'setuptools<81'] and len(commands) == 1
    assert env['PYTHONPATH'].split(os.pathsep)[0] == str(tmp_path / 'tools')
    assert env['PATH'].split(os.pathsep)[:2] == [str(tmp_path / 'tools' / 'bin'), str(Path(sys.executable).parent)]
    assert int(env['MAX_JOBS']) >= 1


def test_output_goes_to_the_log_and_only_progress_to_the_terminal(tmp_path, capfd):
    code = r'print("warning: a wall of them"); [print(f"[{i}/30] c++ file") for i in range(1, 31)]'
    mmcv_wheel.run_logged([sys.executable, '-c', code], dict(os.environ), tmp_path / 'log')
    out, err = capfd.readouterr()
    assert [line.split(',')[0].strip() for line in out.splitlines()] == [f'mmcv ops: {done} of 30 files compiled' for done in (10, 20, 30)]
    assert err == '' and 'warning: a wall of them' in (tmp_path / 'log').read_text()


def test_a_failing_command_shows_the_end_of_its_log(tmp_path):
    code = 'import sys; [print("line", i) for i in range(100)]; sys.exit("error: at last")'
    with pytest.raises(subprocess.CalledProcessError) as caught:
        mmcv_wheel.run_logged([sys.executable, '-c', code], dict(os.environ), tmp_path / 'log')
    assert 'error: at last' in caught.value.output and 'line 50' not in caught.value.output
