"""Check the software stack: ``python -m dynperceiver.doctor [--json]``.

Every check is one small function that returns a :class:`Finding`; what it needs is looked up when it runs, so that whatever is
absent is reported and never an obstacle. The exit code is 1 where a check fails, otherwise 0.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from . import compat

__all__ = ['CHECKS', 'Finding', 'main', 'run_checks']

Status = Literal['OK', 'warn', 'FAIL']

PIP = f'{sys.executable} -m pip'
OPENCV = ('opencv-python', 'opencv-python-headless', 'opencv-contrib-python', 'opencv-contrib-python-headless')
ONE_OPENCV = f'{PIP} uninstall -y {" ".join(OPENCV)}; {PIP} install --no-deps {OPENCV[-1]}'
MMCV_WITH_OPS = f'{sys.executable} tools/build_mmcv.py   (in a clone of this repository; it builds mmcv with its ops)'
MMCV_FOR_CUDA = f'{sys.executable} tools/build_mmcv.py --rebuild   (with nvcc on the PATH, or MMCV_FIND_LINKS=<page of CUDA wheels>)'
PINNED = 'make clean-env setup   (in a clone of this repository; it installs versions that are known to work together)'
OWN_PACKAGES = {  # and their folders in a clone
    'dynperceiver-runtime': 'packages/runtime',
    'dynperceiver': 'packages/core',
    'dynperceiver-cls': 'packages/classification',
    'dynperceiver-det': 'packages/detection',
    'dynperceiver-action': 'packages/action',
}
USERS = {  # which of ours need what is optional otherwise
    'mmcv': ('dynperceiver-det', 'dynperceiver-action'),
    'mmdet': ('dynperceiver-det',),
    'mmaction2': ('dynperceiver-action',),
    'decord': ('dynperceiver-action',),
    'kornia': ('dynperceiver-cls',),
}


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: What was checked.
        status: ``'OK'``, ``'warn'`` (something optional is missing or untested) or ``'FAIL'``.
        detail: Versions and facts, or the fault.
        remedy: What to type against the fault; empty where all is well.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ''


def check_python() -> Finding:
    """Python 3.10-3.12; newer ones are untested."""
    version = sys.version_info[:2]
    detail = f'{sys.version.split()[0]} ({sys.executable})'
    if (3, 10) <= version <= (3, 12):
        return Finding('Python', 'OK', detail)
    status: Status = 'FAIL' if version < (3, 10) else 'warn'
    return Finding('Python', status, f'{detail}; 3.10 to 3.12 are tested', 'make clean-env setup PYTHON=python3.11')


def check_torch() -> Finding:
    """Torch at least 2.1, computing on the device that it reports."""
    if fault := _version_fault('torch', (2, 1), None, f'{PIP} install "torch>=2.1"'):
        return fault
    import torch

    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    assert torch.ones(2, device=device).sum().item() == 2
    name = torch.cuda.get_device_name() if device == 'cuda' else f'{torch.get_num_threads()} threads'
    return Finding('torch', 'OK', f'{torch.__version__} on {device} ({name})')


def check_numpy() -> Finding:
    """NumPy present, and one that torch was built for."""
    remedy = f'{PIP} install numpy'
    if fault := _version_fault('numpy', (1, 22), None, remedy):
        return fault
    if (imported := _import_check('numpy', ('numpy',), remedy)).status != 'OK':
        return imported
    import torch

    try:
        assert float(torch.zeros(1).numpy()[0]) == 0
    except RuntimeError as error:
        return Finding('numpy', 'FAIL', f'{_version("numpy")}: torch cannot use it ({_first_line(error)})', f'{PIP} install "numpy<2"')
    return Finding('numpy', 'OK', f'{_version("numpy")}')


def check_mmengine() -> Finding:
    """MMEngine in the range that all of OpenMMLab 2.0 accepts."""
    remedy = f'{PIP} install "mmengine>=0.8,<1.0"'
    return _version_fault('mmengine', (0, 8), (1, 0), remedy) or _import_check('mmengine', ('mmengine.runner',), remedy)


def check_mmcv() -> Finding:
    """MMCV 2.0.0 to 2.1.x (MMDetection and MMAction2 refuse 2.2)."""
    return _version_fault('mmcv', (2, 0), (2, 2), MMCV_WITH_OPS) or _import_check('mmcv', ('mmcv',), MMCV_WITH_OPS)


def check_mmcv_ops() -> Finding:
    """MMCV's compiled operators load and compute: non-maximum suppression of three boxes."""
    name = 'mmcv C++ ops'
    if _version('mmcv') is None:
        return _absent('mmcv', MMCV_WITH_OPS, name)
    import torch

    try:
        ops = importlib.import_module('mmcv.ops')
        boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 1.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]])
        kept = ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)[1].tolist()
    except Exception as error:  # a missing mmcv._ext, symbols of another torch, an operator that does not run: all one fault
        return Finding(name, 'FAIL', f'do not run ({_first_line(error)})', MMCV_WITH_OPS)
    if kept != [0, 2]:
        return Finding(name, 'FAIL', f'nms keeps the boxes {kept} where [0, 2] is right', MMCV_WITH_OPS)
    if not torch.cuda.is_available():
        return Finding(name, 'OK', 'nms runs on the CPU')
    try:
        ops.nms(boxes.cuda(), torch.tensor([0.9, 0.8, 0.7]).cuda(), 0.5)
    except Exception as error:
        return Finding(name, 'warn', f'nms runs on the CPU but not on the GPU ({_first_line(error)}); detection needs that', MMCV_FOR_CUDA)
    return Finding(name, 'OK', 'nms runs on the CPU and on the GPU')


def check_mmdet() -> Finding:
    """MMDetection 3.x."""
    remedy = f'{PIP} install --no-deps "mmdet>=3.0,<4"'
    return _version_fault('mmdet', (3, 0), (4, 0), remedy) or _import_check('mmdet', ('mmdet.models',), remedy)


def check_mmaction() -> Finding:
    """MMAction2 1.x, with a stand-in for the part that the wheel of 1.2.0 lacks."""
    remedy = f'{PIP} install --no-deps "mmaction2>=1.0,<2" && {PIP} install importlib-metadata einops decord scipy'
    if fault := _version_fault('mmaction2', (1, 0), (2, 0), remedy):
        return fault
    repairs = _repairs_for('mmaction2')
    found = _import_check('mmaction2', ('mmaction.models', 'mmaction.datasets'), remedy)
    return Finding(found.name, found.status, '; '.join([found.detail, *repairs]), found.remedy) if found.status == 'OK' else found


def check_opencv() -> Finding:
    """One distribution of OpenCV: two overwrite each other's files."""
    found = [name for name in OPENCV if _version(name)]
    try:
        cv2 = importlib.import_module('cv2')
    except ImportError as error:
        return Finding('OpenCV', 'FAIL', f'cv2 does not import ({_first_line(error)})', ONE_OPENCV)
    if len(found) > 1:
        return Finding('OpenCV', 'warn', f'{" and ".join(found)} overwrite each other', ONE_OPENCV)
    return Finding('OpenCV', 'OK', f'{cv2.__version__} ({found[0] if found else "not from pip"})')


def check_video() -> Finding:
    """Decord reads a small clip that OpenCV wrote, frame by frame."""
    remedy = f'{PIP} install --force-reinstall --no-deps decord'
    if _version('decord') is None and _version('eva-decord') is None:
        return _absent('decord', f'{PIP} install decord', 'video decoder')
    import cv2
    import numpy as np

    decord = importlib.import_module('decord')
    with tempfile.TemporaryDirectory(prefix='dynperceiver-doctor-') as folder:
        path = str(Path(folder, 'clip.mp4'))
        writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*'mp4v'), 8.0, (64, 48))
        for brightness in (40, 120, 200):
            writer.write(np.full((48, 64, 3), brightness, np.uint8))
        writer.release()
        if not Path(path).is_file():
            return Finding('video decoder', 'FAIL', 'OpenCV cannot write mp4', ONE_OPENCV)
        means = [float(frame.asnumpy().mean()) for frame in decord.VideoReader(path)]
    if len(means) != 3 or any(abs(mean - wanted) > 12 for mean, wanted in zip(means, (40, 120, 200), strict=True)):
        return Finding('video decoder', 'FAIL', f'decord reads frames of brightness {means} where (40, 120, 200) were written', remedy)
    return Finding('video decoder', 'OK', f'decord {decord.__version__} reads what OpenCV wrote')


def check_kornia() -> Finding:
    """Kornia, which augments batches of images."""
    remedy = f'{PIP} install "kornia>=0.8,<1"'
    return _version_fault('kornia', (0, 8), (1, 0), remedy) or _import_check('kornia', ('kornia.enhance', 'kornia.geometry'), remedy)


def check_checkpoints() -> Finding:
    """``torch.load``, called as MMEngine calls it, reads a checkpoint with MMEngine's log buffers."""
    import torch
    from mmengine.logging import HistoryBuffer

    with tempfile.TemporaryDirectory(prefix='dynperceiver-doctor-') as folder, warnings.catch_warnings():
        warnings.simplefilter('ignore', FutureWarning)  # torch 2.4 and 2.5 announce the stricter default of 2.6
        path = Path(folder, 'checkpoint.pth')
        torch.save({'state_dict': {'weight': torch.ones(1)}, 'message_hub': {'loss': HistoryBuffer([0.5], [1])}}, path)
        try:
            loaded = torch.load(path, map_location='cpu')
        except Exception as error:
            return Finding('checkpoints', 'FAIL', f'torch.load refuses them ({_first_line(error)})', PINNED)
    assert loaded['message_hub']['loss'].mean() == 0.5
    return Finding('checkpoints', 'OK', "torch.load reads MMEngine's")


def check_own_packages() -> Finding:
    """The packages of this repository, all of one release."""
    versions = {name: version for name in OWN_PACKAGES if (version := _version(name))}
    if 'dynperceiver' not in versions:
        remedy = f'{PIP} install --no-deps -e {OWN_PACKAGES["dynperceiver"]}'
        return Finding('our packages', 'warn', 'dynperceiver is used from its folder, not installed', remedy)
    detail = ', '.join(f'{name} {version}' for name, version in versions.items())
    remedy = f'{PIP} install --no-deps {" ".join(f"-e {OWN_PACKAGES[name]}" for name in versions)}'
    for name in versions:
        found = _import_check(name, (name.replace('-', '_'),), remedy)
        if found.status != 'OK':
            return found
    if len(set(versions.values())) > 1:
        return Finding('our packages', 'FAIL', f'{detail}: they belong together', remedy)
    return Finding('our packages', 'OK', detail)


CHECKS: tuple[Callable[[], Finding], ...] = (
    check_python, check_torch, check_numpy, check_mmengine, check_mmcv, check_mmcv_ops, check_mmdet, check_mmaction,
    check_opencv, check_video, check_kornia, check_checkpoints, check_own_packages,
)  # fmt: skip


def run_checks(checks: Iterable[Callable[[], Finding]]) -> list[Finding]:
    """Run the checks in order; one that cannot run because of a part that an earlier one reports counts as failed, without a traceback."""
    with contextlib.suppress(Exception):  # what is broken here is named by its own check, and check_checkpoints tells whether it worked
        compat.apply()
    findings = []
    for check in checks:
        try:
            findings.append(check())
        except Exception as error:
            name = check.__name__.removeprefix('check_').replace('_', ' ')
            findings.append(Finding(name, 'FAIL', f'cannot be checked ({_first_line(error)})', 'what is said above, then the doctor again'))
    return findings


def main(argv: list[str] | None = None) -> int:
    """Print the table, or JSON with ``--json``.

    Args:
        argv: Command line without the program's name; ``None`` takes ``sys.argv``.

    Returns:
        1 where a check fails, otherwise 0.
    """
    parser = argparse.ArgumentParser(prog='python -m dynperceiver.doctor', description='Check the software stack of dynperceiver.')
    parser.add_argument('--json', action='store_true', help='print the findings as JSON')
    as_json = parser.parse_args(argv).json
    warnings.simplefilter('ignore')  # the libraries' own deprecations are not about this machine
    findings = run_checks(CHECKS)
    num_failed, num_warned = (sum(finding.status == status for finding in findings) for status in ('FAIL', 'warn'))
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        print('\n'.join(_table_lines(findings)))
        print(f'\n{len(findings)} checks: {num_failed} failed, {num_warned} with a warning.')
    return int(num_failed > 0)


def _table_lines(findings: Iterable[Finding]) -> Iterable[str]:
    for finding in findings:
        yield f'{finding.name:<14} {finding.status:<4}  {finding.detail}'
        if finding.remedy:
            yield f'{"":<14} type: {finding.remedy}'


def _version_fault(name: str, at_least: tuple[int, ...], below: tuple[int, ...] | None, remedy: str) -> Finding | None:
    """What is wrong with the version of an installed distribution, or ``None``."""
    version = _version(name)
    if version is None:
        return _absent(name, remedy)
    release = tuple(int(part) for part in re.findall(r'\d+', version.split('+')[0])[:3])
    if release < at_least or (below is not None and release >= below):
        rule = f'at least {_dotted(at_least)}' + (f' and below {_dotted(below)}' if below else '')
        return Finding(name, 'FAIL', f'version {version} is installed; it has to be {rule}', remedy)
    return None


def _absent(name: str, remedy: str, label: str | None = None) -> Finding:
    """A failure where an installed package of ours needs the distribution, otherwise a warning."""
    users = USERS.get(name)
    needed = users is None or any(_version(user) for user in users)
    reason = '' if needed else f' (only {" and ".join(users or ())} would need it)'
    return Finding(label or name, 'FAIL' if needed else 'warn', f'{name} is not installed{reason}', remedy)


def _repairs_for(name: str) -> list[str]:
    """Import those of our packages that need a distribution, which puts their repairs of it in place; what these are, in words."""
    found: list[str] = []
    for user in USERS[name]:
        package = user.replace('-', '_')
        with contextlib.suppress(Exception):  # what is broken in it is for check_own_packages to say
            importlib.import_module(package)
        compat_of_user = sys.modules.get(f'{package}.compat')  # there even where the package's other parts fail to import
        found += getattr(compat_of_user, 'repairs', list)()
    return found


def _import_check(name: str, modules: tuple[str, ...], remedy: str) -> Finding:
    """Whether the modules of an installed distribution import."""
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # asserts, missing parts and broken binaries all mean that it cannot be used
            return Finding(name, 'FAIL', f'{_version(name)}: import {module} fails ({_first_line(error)})', remedy)
    return Finding(name, 'OK', str(_version(name)))


def _version(name: str) -> str | None:
    """Version of an installed distribution, ``None`` where there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _dotted(version: tuple[int, ...]) -> str:
    return '.'.join(map(str, version))


def _first_line(error: BaseException) -> str:
    """The kind of an error and the first line of what it says."""
    return f'{type(error).__name__}: {(str(error).strip() or "no message").splitlines()[0][:160]}'


if __name__ == '__main__':
    sys.exit(main())
