"""Build (or fetch from the user cache) a wheel of mmcv with its C++ ops, and install it.

PyPI has no mmcv wheel with ops. A plain source build parses all of torch's headers once per C++ file: about 20 minutes on
two cores. Here those headers are compiled once (a precompiled header) and reused, which takes 2 to 3 minutes; the wheel is
kept in a user cache, so that the next environment with the same versions needs seconds. Run it with the Python of the
environment that should get mmcv; torch must be installed there already.

Where torch is a CUDA build and nvcc is found, the stock build with CUDA ops comes first. Environment variables:
  MMCV_FIND_LINKS  page or folder with ready wheels of mmcv (such as a vendor's for CUDA), tried before everything else
  MAX_JOBS         compilers that run at once, about 2 GB of memory each (default: one per core)
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from mmcv_wheel import KINDS, PIP, cache_folder, make_wheel


def find_or_make(folders: dict[str, Path], version: str, rebuild: bool = False) -> tuple[str, Path] | None:
    """Find a wheel in the cache, or make one.

    Args:
        folders: The kinds of wheel to try, in this order, each with its folder of the cache.
        version: Version of mmcv.
        rebuild: Take nothing from the cache.

    Returns:
        The first kind that works and its wheel; ``None`` where every kind fails, and then each has said why.
    """
    log_path = Path(tempfile.gettempdir()) / f'mmcv-build-{os.getpid()}.log'
    for kind, folder in folders.items():
        cached = sorted(folder.glob(f'mmcv-{version}-*.whl'))
        if cached and not rebuild:
            print(f'mmcv {version}: wheel found in the cache ({folder})', flush=True)
            return kind, cached[-1]
        print(f'mmcv {version}: {KINDS[kind]} (log: {log_path})', flush=True)
        try:
            return kind, make_wheel(kind, version, folder, log_path)
        except (subprocess.CalledProcessError, OSError) as error:
            print(f'{getattr(error, "output", None) or ""}\nmmcv {version}: this way failed: {error}', file=sys.stderr, flush=True)
    return None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--version', default='2.1.0', help='mmcv version (default: %(default)s)')
    parser.add_argument('--plain', action='store_true', help='no precompiled header')
    parser.add_argument('--rebuild', action='store_true', help='take no wheel from the cache')
    parser.add_argument('--no-install', action='store_true', help='only leave the wheel in the cache')
    args = parser.parse_args(argv)
    try:
        import torch
        from torch.utils.cpp_extension import CUDA_HOME
    except ImportError as error:
        parser.error(f'{sys.executable} cannot import torch ({error}); install it first: {sys.executable} -m pip install torch')

    for_cuda = torch.version.cuda is not None
    has_links, has_nvcc = bool(os.environ.get('MMCV_FIND_LINKS')), CUDA_HOME is not None
    wanted = {'ready': has_links, 'cuda': for_cuda and has_nvcc, 'fast': not args.plain, 'plain': True}
    cuda_ops = {'ready': for_cuda, 'cuda': True, 'fast': False, 'plain': False}
    folders = {kind: cache_folder(args.version, torch.__version__, cuda_ops[kind]) for kind in KINDS if wanted[kind]}
    found = find_or_make(folders, args.version, args.rebuild)
    if found is None:
        print('mmcv could not be built. It takes a C++17 compiler and the headers of Python (apt-get install g++ python3-dev), and 2 GB of '
              'memory per compiler (MAX_JOBS=1 runs one at a time).', file=sys.stderr)
        return 1
    kind, wheel = found
    if for_cuda and not cuda_ops[kind]:
        print('These ops run on the CPU only. For the GPU put nvcc on the PATH or set MMCV_FIND_LINKS, and run this again with --rebuild.')
    if args.no_install:
        return 0
    return subprocess.call([*PIP, 'install', '-qq', '--no-deps', '--no-index', '--force-reinstall', str(wheel)])


if __name__ == '__main__':
    sys.exit(main())
