"""Make ``.venv`` with the pinned stack and this repository's packages; ``make setup`` calls it.

It runs with any Python 3.10-3.12, goes on where an interrupted run stopped, and does nothing where all is done.

Environment variables:
  PIP_INDEX_URL    package index for everything, and pip's other variables, as pip knows them
  TORCH_INDEX      index of torch's CPU or CUDA builds, for torch alone (default: pip's index, on Linux a CUDA build of gigabytes)
  MMCV_FIND_LINKS  page or folder with ready wheels of mmcv, tried before mmcv's ops are built
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOWEST, HIGHEST = (3, 10), (3, 12)
PIP_INSTALL = ['-m', 'pip', '--disable-pip-version-check', '--no-input', 'install', '-qq', '--no-warn-conflicts']


def problems(version: tuple[int, ...], modules: set[str], has_compiler: bool, has_headers: bool) -> list[str]:
    """What stands in the way of set-up, each with its remedy; empty where nothing does.

    Args:
        version: Version of the Python that runs this, at least (major, minor).
        modules: Those of ``venv`` and ``ensurepip`` that it has.
        has_compiler: Whether a C++ compiler is there.
        has_headers: Whether Python.h is there.
    """
    python = f'python{version[0]}.{version[1]}'
    if not LOWEST <= version[:2] <= HIGHEST:
        return [f'{sys.executable} is Python {".".join(map(str, version[:3]))}; set-up needs 3.10, 3.11 or 3.12. Install one and name it, '
                'for example: apt-get install python3.11 python3.11-venv python3.11-dev; make setup PYTHON=python3.11']
    found = []
    if missing := sorted({'venv', 'ensurepip'} - modules):
        found.append(f'{sys.executable} lacks {" and ".join(missing)}; set-up makes a virtual environment: apt-get install {python}-venv')
    if not has_compiler:
        found.append("no C++ compiler was found (g++, or what CXX names); mmcv's ops are built with it: apt-get install g++")
    if not has_headers:
        found.append(f"{python} has no Python.h; mmcv's ops are built with it: apt-get install {python}-dev")
    return found


def fingerprint(root: Path) -> str:
    """Hash of all that decides what ``.venv`` holds: the place, requirements/* and packages/*/pyproject.toml."""
    digest = hashlib.sha256(str(root).encode())
    for path in sorted([*root.glob('requirements/*.txt'), *root.glob('packages/*/pyproject.toml')]):
        digest.update(f'\n{path.relative_to(root)}\n'.encode() + path.read_bytes())
    return digest.hexdigest()


def usable(python: Path) -> bool:
    """Whether an environment's Python starts, has pip and is of a supported version."""
    code = f'import sys, pip; sys.exit(not {LOWEST} <= sys.version_info[:2] <= {HIGHEST})'
    return python.exists() and subprocess.run([python, '-c', code], stderr=subprocess.DEVNULL).returncode == 0


def plan(root: Path, python: str, torch_index: str | None) -> list[tuple[str, list[str]]]:
    """The steps after ``.venv`` is made: what to say, and the command. Each can be run again and is quick when already done."""
    requirements = root / 'requirements'
    pip = [python, *PIP_INSTALL, '-c', str(requirements / 'constraints.txt')]
    mmcv = re.search(r'^mmcv==(\S+)', (requirements / 'constraints.txt').read_text(), re.MULTILINE)
    if mmcv is None:
        raise ValueError('requirements/constraints.txt pins no mmcv: it needs a line such as mmcv==2.1.0')
    packages = [word for project in sorted(root.glob('packages/*/pyproject.toml')) for word in ('-e', str(project.parent))]
    return [
        ('pip and build tools', [*pip, 'pip', 'setuptools', 'wheel', 'ninja']),
        (f'torch from {torch_index or "the default index; TORCH_INDEX=<index of CPU builds> would avoid the large CUDA build"}',
         [*pip, '--no-deps', *(['--index-url', torch_index] if torch_index else []), 'torch']),
        ('libraries and developer tools', [*pip, '-r', str(requirements / 'stack.txt'), '-r', str(requirements / 'dev.txt')]),
        ('MMEngine, MMDetection, MMAction2', [*pip, '--no-deps', '-r', str(requirements / 'nodeps.txt')]),
        ('mmcv with its ops', [python, str(root / 'tools' / 'build_mmcv.py'), '--version', mmcv[1]]),
        ('the packages of this repository', [*pip, '--no-deps', '--no-build-isolation', *packages]),
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--force', action='store_true', help='go through all steps even where set-up is up to date')
    args = parser.parse_args(argv)
    folder = ROOT / '.venv'
    python, stamp, wanted = folder / 'bin' / 'python', folder / 'setup-stamp', fingerprint(ROOT)
    if not args.force and python.exists() and stamp.is_file() and stamp.read_text() == wanted:
        return 0
    compiler = shutil.which(os.environ.get('CXX', 'g++').split()[0]) is not None or 'MMCV_FIND_LINKS' in os.environ
    headers = Path(sysconfig.get_path('include'), 'Python.h').is_file() or 'MMCV_FIND_LINKS' in os.environ
    if faults := problems(tuple(sys.version_info[:3]), {name for name in ('venv', 'ensurepip') if find_spec(name)}, compiler, headers):
        print('\n'.join(f'set-up cannot start: {fault}' for fault in faults), file=sys.stderr)
        return 1
    stamp.unlink(missing_ok=True)
    steps = plan(ROOT, str(python), os.environ.get('TORCH_INDEX'))
    if not usable(python):
        steps.insert(0, ('.venv', [sys.executable, '-m', 'venv', '--clear', str(folder)]))
    for number, (title, command) in enumerate(steps, 1):
        print(f'[{number}/{len(steps)}] {title}', flush=True)
        start = time.time()
        try:
            code = subprocess.call(command, cwd=ROOT)
        except KeyboardInterrupt:
            code = 130
        if code:
            print(f'set-up stopped at step {number} ({title}); mend the fault above and type the same again to go on', file=sys.stderr)
            return code
        print(f'[{number}/{len(steps)}] done in {time.time() - start:.0f} s', flush=True)
    stamp.write_text(wanted)
    print('set-up is complete: .venv/bin/python is ready', flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
