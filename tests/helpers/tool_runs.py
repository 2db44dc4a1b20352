"""Processes of this repository's tools, of any task: how tests start them, share what they leave, and read it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    import pytest
    from mmengine.runner import Runner

__all__ = [
    'ROOT',
    'TaskRuns',
    'assert_resumed',
    'bits',
    'close_workers',
    'event_tags',
    'finish',
    'free_port',
    'installed_tool',
    'keep_layout',
    'quick_runner',
    'records_of_ranks',
    'result_of_test',
    'run_here',
    'scalars',
    'start',
    'text_of_log',
    'training_curve',
    'write_hooked_config',
    'write_quick_config',
]

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / 'packages').glob('*/src'))

WITH_MODULE = """\
_base_ = ['{base}']
custom_imports = dict(imports=[*_base_.custom_imports.imports, '{module}'], allow_failed_imports=False)
"""


def write_hooked_config(path: Path, base: Path, hook: str) -> Path:
    """Write a config that adds a hook of ``tiny_hooks`` to another config."""
    path.write_text(WITH_MODULE.format(base=base, module='tiny_hooks') + f'custom_hooks = [*_base_.custom_hooks, dict({hook})]\n')
    return path


def write_quick_config(path: Path, base: Path) -> Path:
    """Write a config for processes that is another one, except that its text is not laid out; see ``quick_layout``."""
    path.write_text(WITH_MODULE.format(base=base, module='quick_layout'))
    return path


def keep_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let configs go into logs and checkpoints without being laid out, which takes longer than a tiny training, until the test ends."""
    monkeypatch.setattr('mmengine.config.config.FormatCode', lambda text, **_: (text, False))


def installed_tool(package: str, name: str) -> Path:
    """A script that comes with an installed package of OpenMMLab, such as ``('mmdet', 'train')``."""
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / '.mim' / 'tools' / f'{name}.py'


def free_port() -> str:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])


def start(command: Sequence[str | Path], python: bool = True, cwd: Path = ROOT, **variables: str) -> subprocess.Popen[str]:
    """Start a script of this repository with this Python (or a shell script with ``python=False``), output captured.

    It computes with as many threads as the tests, and finds this repository's packages and ``tests/helpers``.
    """
    paths = [*map(str, [Path(__file__).parent, *SOURCES]), *filter(None, [os.environ.get('PYTHONPATH')])]
    variables = {'PYTHONPATH': os.pathsep.join(paths), 'PYTHON': sys.executable, **variables}
    words = [*([sys.executable] if python else []), *map(str, command)]
    return subprocess.Popen(
        words, cwd=cwd, env={**os.environ, **variables}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str], code: int | None = 0, timeout_s: float = 300) -> tuple[str, str]:
    """Wait for a process of :func:`start` and check its exit code; returns what it printed, stdout and stderr."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f'{process.args} took more than {timeout_s} s\n{out[-3000:]}\n{err[-3000:]}') from None
    assert code is None or process.returncode == code, f'{process.args} ended with {process.returncode}\n{out[-3000:]}\n{err[-5000:]}'
    return out, err


def run_here(script: str | Path, *arguments: str | Path) -> None:
    """Run a script within this process, as ``python SCRIPT ARGUMENTS`` would: starting one takes longer than a tiny training.

    Loggers, visualizers and the like of runs before are out of its way meanwhile; MMEngine has one of a name per process. What it sets in
    the environment ends with it.

    Args:
        script: Of this repository, or with an absolute path.
        arguments: Its command line.
    """
    import runpy

    import pytest
    from mmengine.logging import MMLogger
    from mmengine.utils import ManagerMixin

    with mock.patch.dict(os.environ), pytest.MonkeyPatch.context() as patch:
        keep_layout(patch)
        patch.setattr('sys.argv', [str(ROOT / script), *map(str, arguments)])
        waiting = [ManagerMixin]
        while waiting:
            kind = waiting.pop()
            waiting += kind.__subclasses__()
            patch.setattr(kind, '_instance_dict', type(kind._instance_dict)())
        try:
            runpy.run_path(str(ROOT / script), run_name='__main__')
        finally:
            logging.disable(logging.NOTSET)
            for logger in MMLogger._instance_dict.values():
                for handler in logger.handlers:
                    handler.close()


class TaskRuns:
    """What tests of a task look at; each run is made within this process when it is first asked for.

    Attributes:
        folder: Where everything is; the work dir of a run has the name of its property.
        config: Leaf config: two epochs of a few iterations.
    """

    config: Path
    kept: tuple[str, ...] = ('--out', 'scores.pkl', '--show-dir', 'pictures', '--interval', '3')

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, name: str, script: str | Path, *arguments: str | Path) -> Path:
        """Run a script with a work dir of this name, which is returned; files that it is to keep go there."""
        work_dir = self.folder / name
        words = [work_dir / word if word.endswith('.pkl') or word == 'pictures' else word for word in map(str, arguments)]
        run_here(script, *words, '--work-dir', work_dir)
        return work_dir

    @cached_property
    def trained(self) -> Path:
        """A training by tools/train.py."""
        return self.run('trained', 'tools/train.py', self.config)

    @property
    def checkpoint(self) -> Path:
        """The last one of :attr:`trained`."""
        return self.trained / 'epoch_2.pth'

    @cached_property
    def resumed(self) -> Path:
        """The training once more by ``--resume``, in a work dir that has the checkpoint of its first epoch and nothing else."""
        folder = self.folder / 'resumed'
        folder.mkdir()
        shutil.copy(self.trained / 'epoch_1.pth', folder)
        (folder / 'last_checkpoint').write_text(str(folder / 'epoch_1.pth'))
        return self.run('resumed', 'tools/train.py', self.config, '--resume')

    @cached_property
    def tested(self) -> Path:
        """A test of the last checkpoint by tools/test.py, with what :attr:`kept` asks for."""
        return self.run('tested', 'tools/test.py', self.config, self.checkpoint, *self.kept)


def assert_resumed(whole: Path, resumed: Path) -> None:
    """A training that was resumed after its first of two epochs repeats what came then, and ends with the same checkpoint, bit for bit."""
    import torch

    curve = training_curve(whole)
    assert len({line['loss'] for line in curve.values()}) == len(curve)
    assert training_curve(resumed) == {step: curve[step] for step in list(curve)[len(curve) // 2 :]}
    contents = [torch.load(folder / 'epoch_2.pth', weights_only=True) for folder in (whole, resumed)]
    for content in contents:
        del content['meta'], content['message_hub']  # times, and names of folders
    assert bits(contents[1]) == bits(contents[0])


def text_of_log(work_dir: Path) -> str:
    """All that the one run in a work dir has logged."""
    (path,) = work_dir.glob('*/*.log')
    return path.read_text()


def quick_runner(config: Path, work_dir: Path, hooks: Sequence[dict[str, Any]] | None = None, **changes: Any) -> Runner:
    """A runner within this process, without validation and without the config in its logs and checkpoints, whose layout takes seconds.

    Args:
        config: Config file.
        work_dir: Where results go.
        hooks: Custom hooks instead of the config's.
        changes: Arguments of the runner instead of the config's.
    """
    from mmengine.config import Config
    from mmengine.runner import Runner

    cfg = Config.fromfile(config)
    cfg.default_hooks.checkpoint.save_best = None
    names = ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler', 'default_hooks', 'custom_hooks', 'randomness')
    arguments: dict[str, Any] = {name: cfg[name] for name in (*names, 'env_cfg', 'log_processor', 'default_scope')}
    if hooks is not None:
        arguments['custom_hooks'] = list(hooks)
    return Runner(work_dir=str(work_dir), experiment_name=work_dir.name, **{**arguments, **changes})


def close_workers(runner: Runner) -> None:
    """End the persistent workers of a runner's training data now; the garbage collector would wait seconds for each."""
    iterator = runner.train_dataloader._iterator
    if iterator is not None:
        iterator._shutdown_workers()


def bits(content: Any) -> Any:
    """What a checkpoint holds, with every tensor as its bytes, so that ``==`` compares to the last bit."""
    import torch

    if isinstance(content, dict):
        return {key: bits(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [bits(value) for value in content]
    return (content.dtype, content.shape, content.contiguous().numpy().tobytes()) if isinstance(content, torch.Tensor) else content


def scalars(work_dir: Path) -> list[dict[str, Any]]:
    """Lines of the newest ``vis_data/scalars.json`` below a work dir."""
    newest = max(work_dir.glob('*/vis_data/scalars.json'), key=lambda path: path.parent.parent.name)
    return [json.loads(line) for line in newest.read_text().splitlines()]


def training_curve(work_dir: Path) -> dict[int, dict[str, float]]:
    """Step to losses, accuracies and gradient norm, of the newest run in a work dir."""
    lines = [line for line in scalars(work_dir) if 'loss' in line]
    return {line['step']: {key: value for key, value in line.items() if key not in ('time', 'data_time', 'memory')} for line in lines}


def event_tags(work_dir: Path) -> set[str]:
    """Names of all scalars in the TensorBoard event files below a work dir."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tags: set[str] = set()
    for path in work_dir.rglob('events.out.tfevents.*'):
        tags |= set(EventAccumulator(str(path)).Reload().Tags()['scalars'])
    return tags


def result_of_test(work_dir: Path) -> dict[str, float]:
    """Figures of the one test in a work dir, without times."""
    (path,) = work_dir.glob('*/*.json')
    return {key: value for key, value in json.loads(path.read_text()).items() if 'time' not in key}


def records_of_ranks(folder: Path) -> list[dict[str, Any]]:
    """What ``RecordRankHook`` wrote of two ranks."""
    return [json.loads((folder / f'{rank}.json').read_text()) for rank in (0, 1)]
