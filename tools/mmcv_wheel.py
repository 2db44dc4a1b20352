"""How a wheel of mmcv with its C++ ops is made; ``tools/build_mmcv.py`` decides which way and installs it."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

PIP = [sys.executable, '-m', 'pip', '--disable-pip-version-check']
BASE_FLAGS = ['-DNDEBUG', '-g0', '-fwrapv', '-O3', '-Wall']  # CFLAGS replaces Python's own flags: without -O3 the ops come out slow
NINJA_FLAGS = ['-fPIC', '-std=c++17', '-DTORCH_API_INCLUDE_EXTENSION_H', '-DTORCH_EXTENSION_NAME=_ext']
BUILD_TOOLS = {'pkg_resources': 'setuptools<81', 'wheel': 'wheel', 'ninja': 'ninja'}  # setuptools 81 dropped what mmcv's setup.py imports
KINDS = {
    'ready': 'looking for a ready wheel at MMCV_FIND_LINKS',
    'cuda': 'stock build with CUDA ops, 20 minutes or more',
    'fast': 'building the CPU ops with a precompiled header, 2 to 3 minutes on two cores',
    'plain': 'stock build of the CPU ops, about 20 minutes on two cores',
}


def cache_folder(mmcv_version: str, torch_version: str, cuda_ops: bool = False) -> Path:
    """Folder of the user cache for wheels of exactly this mmcv, torch and Python."""
    root = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'dynperceiver' / 'wheels'
    name = f'mmcv-{mmcv_version}_torch-{torch_version}_{sys.implementation.cache_tag}_{platform.machine()}'
    return root / (f'{name}_cuda' if cuda_ops else name)


def make_wheel(kind: str, version: str, dest: Path, log_path: Path) -> Path:
    """Download or build a wheel and put it into ``dest``, whole or not at all.

    Args:
        kind: A key of ``KINDS``.
        version: Version of mmcv.
        dest: Folder that receives the wheel; made where missing.
        log_path: File to which the whole output of pip and the compiler is appended.

    Returns:
        Path of the wheel in ``dest``.

    Raises:
        subprocess.CalledProcessError: pip or the compiler failed; ``output`` has the end of the log.
        FileNotFoundError: There is no compiler, or no wheel came out.
    """
    with tempfile.TemporaryDirectory(prefix='mmcv-build-') as folder:
        work, command = Path(folder), [*PIP, 'wheel', '-v', '--no-deps', '--no-cache-dir', f'mmcv=={version}', '-w', folder]
        if kind == 'ready':
            command += ['--only-binary', 'mmcv', '--no-index', '--find-links', os.environ['MMCV_FIND_LINKS']]
            run_logged(command, dict(os.environ), log_path)
        else:
            env = build_env(work, kind == 'cuda')
            if kind == 'fast':
                env['CFLAGS'] = header_flags(work, log_path)
            run_logged([*command, '--no-build-isolation', '--no-binary', 'mmcv'], env, log_path)
        wheels = list(work.glob('mmcv-*.whl'))
        if not wheels:
            raise FileNotFoundError(f'pip left no wheel of mmcv {version}; its output is in {log_path}')
        dest.mkdir(parents=True, exist_ok=True)
        partial = dest / f'.{wheels[0].name}.{os.getpid()}.partial'
        shutil.copyfile(wheels[0], partial)
        return partial.replace(dest / wheels[0].name)


def build_env(work: Path, cuda_ops: bool) -> dict[str, str]:
    """Environment of a build; build tools that are missing go into ``work``, so that nothing installed changes."""
    env = dict(os.environ, MMCV_WITH_OPS='1', FORCE_CUDA='1' if cuda_ops else '0')
    env['MAX_JOBS'] = env.get('MAX_JOBS') or str(os.cpu_count() or 2)
    if not cuda_ops:
        env['CUDA_VISIBLE_DEVICES'] = ''  # mmcv's setup.py turns to CUDA wherever a GPU is in sight
    missing = [requirement for module, requirement in BUILD_TOOLS.items() if importlib.util.find_spec(module) is None]
    if missing:
        subprocess.run([*PIP, 'install', '-qq', '--target', str(work / 'tools'), *missing], check=True)
        env['PYTHONPATH'] = os.pathsep.join(filter(None, [str(work / 'tools'), env.get('PYTHONPATH')]))
    ninja_folders = [str(work / 'tools' / 'bin'), str(Path(sys.executable).parent)]  # where pip puts it; not on the PATH by itself
    env['PATH'] = os.pathsep.join([*ninja_folders, env.get('PATH', os.defpath)])
    return env


def header_flags(work: Path, log_path: Path) -> str:
    """Precompile ``<torch/types.h>`` with the flags that ninja will use; return the CFLAGS that make the build use it."""
    from torch.utils.cpp_extension import include_paths

    header = work / 'torch_types.h'
    header.write_text('#include <torch/types.h>\n')
    includes = [f'-I{path}' for path in (*include_paths(), sysconfig.get_path('include'))]
    compiler = os.environ.get('CXX', 'g++').split()
    command = [*compiler, *BASE_FLAGS, *NINJA_FLAGS, *includes, '-x', 'c++-header', str(header), '-o', f'{header}.gch']
    run_logged(command, dict(os.environ), log_path)
    return ' '.join([*BASE_FLAGS, '-include', str(header), '-Winvalid-pch'])


def run_logged(command: list[str], env: dict[str, str], log_path: Path) -> None:
    """Run a command, append its whole output to a log, and show ninja's ``[done/total]`` on one line."""
    start, interactive = time.time(), sys.stdout.isatty()
    with open(log_path, 'a') as log, subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace'
    ) as process:
        for line in process.stdout or ():
            log.write(line)
            step = re.search(r'\[(\d+)/(\d+)\] ', line)
            if step and (interactive or int(step[1]) % 10 == 0):
                text = f'  mmcv ops: {step[1]} of {step[2]} files compiled, {time.time() - start:.0f} s'
                print(f'\r{text}' if interactive else text, end='' if interactive and step[1] != step[2] else '\n', flush=True)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command[:4], output='\n'.join(log_path.read_text().splitlines()[-25:]))
