"""Build (or fetch from the user cache) a wheel of mmcv with its C++ ops, and install it.

PyPI has no mmcv wheel with ops. A plain source build parses all of torch's headers once per C++ file: about 20 minutes on
two cores. Here those headers are compiled once (a precompiled header) and reused, which takes about 3 minutes; the wheel is
kept in a user cache, so that the next environment with the same versions needs seconds. Run it with the Python of the
environment that should get mmcv; torch must be installed there already.
"""

from __future__ import annotations

import argparse
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

BASE_FLAGS = ['-DNDEBUG', '-g0', '-fwrapv', '-O3', '-Wall']
NINJA_FLAGS = ['-fPIC', '-std=c++17', '-DTORCH_API_INCLUDE_EXTENSION_H', '-DTORCH_EXTENSION_NAME=_ext']


def cache_folder(mmcv_version: str, torch_version: str) -> Path:
    """Folder of the user cache for wheels of exactly this mmcv, torch and Python."""
    root = Path(os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache')) / 'dynperceiver' / 'wheels'
    return root / f'mmcv-{mmcv_version}_torch-{torch_version}_{sys.implementation.cache_tag}_{platform.machine()}'


def compile_header(folder: Path) -> Path:
    """Precompile ``<torch/types.h>`` with the flags that the extension build will use."""
    from torch.utils.cpp_extension import include_paths
    header = folder / 'torch_types.h'
    header.write_text('#include <torch/types.h>\n')
    includes = [f'-I{path}' for path in (*include_paths(), sysconfig.get_path('include'))]
    compiler = os.environ.get('CXX', 'g++')
    subprocess.run([compiler, *BASE_FLAGS, *NINJA_FLAGS, *includes, '-x', 'c++-header', str(header), '-o', f'{header}.gch'], check=True)
    return header


def run_with_progress(command: list[str], env: dict[str, str], log_path: Path) -> None:
    """Run a build, keep its whole output in a log, and show ninja's ``[done/total]`` on one line."""
    start, interactive = time.time(), sys.stdout.isatty()
    with open(log_path, 'w') as log, subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            step = re.search(r'\[(\d+)/(\d+)\]', line)
            if step and (interactive or int(step[1]) % 10 == 0):
                text = f'  mmcv ops: {step[1]} of {step[2]} files compiled, {time.time() - start:.0f} s'
                print(f'\r{text}' if interactive else text, end='' if interactive else '\n', flush=True)
    if interactive:
        print()
    if process.returncode:
        tail = ''.join(log_path.read_text().splitlines(keepends=True)[-25:])
        raise subprocess.CalledProcessError(process.returncode, command, output=tail)


def build_wheel(version: str, dest: Path, use_header: bool, verbose_log: Path) -> Path:
    """Build the wheel into ``dest``; with ``use_header`` through the precompiled header."""
    with tempfile.TemporaryDirectory(prefix='mmcv-build-') as work:
        env = dict(os.environ, MMCV_WITH_OPS='1', MAX_JOBS=os.environ.get('MAX_JOBS', str(os.cpu_count() or 2)))
        if use_header:
            env['CFLAGS'] = ' '.join([*BASE_FLAGS, '-include', str(compile_header(Path(work))), '-Winvalid-pch'])
            env['FORCE_CUDA'] = '0'
        command = [sys.executable, '-m', 'pip', 'wheel', '-v', '--no-deps', '--no-build-isolation', '--no-cache-dir', '--no-binary', 'mmcv',
                   f'mmcv=={version}', '-w', work]
        run_with_progress(command, env, verbose_log)
        wheel = next(Path(work).glob('mmcv-*.whl'))
        dest.mkdir(parents=True, exist_ok=True)
        partial = dest / f'.{wheel.name}.partial'
        shutil.copyfile(wheel, partial)
        return partial.replace(dest / wheel.name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--version', default='2.1.0', help='mmcv version (default: %(default)s)')
    parser.add_argument('--plain', action='store_true', help='stock build, no precompiled header (always so on CUDA machines)')
    parser.add_argument('--no-install', action='store_true', help='only leave the wheel in the cache')
    args = parser.parse_args()
    try:
        import torch
    except ImportError:
        parser.error(f'torch is not installed for {sys.executable}; install it first: {sys.executable} -m pip install torch')
    folder = cache_folder(args.version, torch.__version__)
    wheels = sorted(folder.glob('mmcv-*.whl'))
    if wheels:
        print(f'mmcv {args.version}: wheel found in the cache ({folder})', flush=True)
    else:
        with_header = not (args.plain or torch.cuda.is_available() or shutil.which('nvcc') and torch.version.cuda)
        log_path = Path(tempfile.gettempdir()) / f'mmcv-build-{os.getpid()}.log'
        print(f'mmcv {args.version}: building its ops, about {"3" if with_header else "20 or more"} minutes on two cores (log: {log_path})', flush=True)
        try:
            wheels = [build_wheel(args.version, folder, with_header, log_path)]
        except (subprocess.CalledProcessError, OSError) as error:
            if not with_header:
                print(getattr(error, 'output', '') or error, file=sys.stderr)
                print(f'mmcv did not build; the whole log is {log_path}. A C++17 compiler is needed (apt-get install g++ make), and about '
                      '2 GB of memory per job (MAX_JOBS=1 uses one).', file=sys.stderr)
                return 1
            print(f'the build with a precompiled header failed ({error}); falling back to the plain build (about 20 minutes on two cores)', flush=True)
            wheels = [build_wheel(args.version, folder, False, log_path)]
    if args.no_install:
        return 0
    return subprocess.call([sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--no-index', '--force-reinstall', str(wheels[-1])])


if __name__ == '__main__':
    sys.exit(main())
