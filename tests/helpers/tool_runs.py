"""Processes of this repository's tools, of any task: how tests start them, share what they leave, and read it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest
    from mmengine.runner import Runner

__all__ = [
    'NO_BEST',
    'ROOT',
    'EarlyExitRuns',
    'ToolRuns',
    'close_workers',
    'event_tags',
    'finish',
    'free_port',
    'installed_tool',
    'keep_layout',
    'quick_runner',
    'records_of_ranks',
    'result_of_test',
    'scalars',
    'start',
    'training_curve',
    'write_hooked_config',
    'write_quick_config',
]

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / 'packages').glob('*/src'))
KILLED_AT = 6  # iterations; tiny trainings have 4 per epoch, so it is in the middle of epoch 2
NO_BEST = ('--cfg-options', 'default_hooks.checkpoint.save_best=None')

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

    It computes with one thread, and finds this repository's packages and ``tests/helpers``.
    """
    paths = [*map(str, [Path(__file__).parent, *SOURCES]), *filter(None, [os.environ.get('PYTHONPATH')])]
    variables = {'OMP_NUM_THREADS': '1', 'PYTHONPATH': os.pathsep.join(paths), 'PYTHON': sys.executable, **variables}
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


class ToolRuns:
    """Runs of the tools that several tests look at: each starts once, two at a time.

    A subclass gives its jobs to :meth:`submit` and has a property for each, which waits for it and gives its work dir.

    Attributes:
        folder: Where everything is.
        records: Folder with what each of two ranks saw; see ``RecordRankHook``.
        jobs: What runs, ran or waits, by the name of its function.
        output: What each process printed, by the name of its work dir; see :meth:`run_in`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records = folder / 'records'
        self.records.mkdir()
        self.processes: list[subprocess.Popen[str]] = []
        self.output: dict[str, str] = {}
        self.pool = ThreadPoolExecutor(2)
        self.jobs: dict[str, Future[Path]] = {}

    def submit(self, *jobs: Callable[[], Path]) -> None:
        """Let jobs run in their order; those that others wait for come first, so that no two workers wait for a third."""
        for job in jobs:
            self.jobs[job.__name__] = self.pool.submit(job)

    def close(self) -> None:
        """End what still runs."""
        for job in self.jobs.values():
            job.cancel()
        # The launcher of several processes ends them when it is asked to end, and leaves them behind when it is killed.
        running = [process for process in self.processes if process.poll() is None]
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=60)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        self.pool.shutdown()

    def run(self, *command: str | Path, code: int = 0, python: bool = True, **variables: str) -> str:
        """Run a tool as :func:`start` does; returns what it printed."""
        process = start(command, python=python, **variables)
        self.processes.append(process)
        return ''.join(finish(process, code))

    def run_in(self, folder: Path, *command: str | Path, code: int = 0, python: bool = True, **variables: str) -> Path:
        """Run a tool with a work dir, which is returned; other files that it is to leave have absolute paths."""
        self.output[folder.name] = self.run(*command, '--work-dir', folder, code=code, python=python, **variables)
        return folder

    def run_two(self, folder: Path, script: str, *arguments: str | Path) -> Path:
        """Run a shell script that starts two processes, with a work dir, which is returned."""
        return self.run_in(folder, script, *arguments, python=False, PORT=free_port())

    def watched(self, config: Path) -> Path:
        """A config whose training leaves :attr:`records`; see :func:`write_hooked_config`."""
        return write_hooked_config(self.folder / 'watched.py', config, f"type='RecordRankHook', folder='{self.records}'")

    def kill_in(self, folder: Path, config: Path, *options: str) -> Path:
        """Train in a work dir, which is returned, until the process is killed after :data:`KILLED_AT` iterations."""
        dying = write_hooked_config(self.folder / 'dying.py', config, f"type='KillHook', at={KILLED_AT}")
        return self.run_in(folder, 'tools/train.py', dying, *options, code=-signal.SIGKILL)

    def resume_in(self, folder: Path, killed: Path, config: Path, *options: str) -> Path:
        """Go on with a training of :meth:`kill_in` by ``--resume``, in a copy of its work dir, which is returned."""
        shutil.copytree(killed, folder)
        (folder / 'last_checkpoint').write_text(str(folder / 'epoch_1.pth'))
        return self.run_in(folder, 'tools/train.py', config, '--resume', *options)


class EarlyExitRuns(ToolRuns):
    """What tests of every task with exits look at: a training, the same killed and resumed, a test, and both by two processes.

    Attributes:
        config: Leaf config: three epochs of four iterations. A subclass writes it.
    """

    config: Path

    def _die(self) -> Path:
        return self.kill_in(self.folder / 'killed', self.config, *NO_BEST)

    def _resume(self) -> Path:
        return self.resume_in(self.folder / 'resumed', self.killed, self.config, *NO_BEST)

    def _test(self) -> Path:
        folder = self.folder / 'tested'
        kept = ['--out', folder / 'scores.pkl', '--show-dir', folder / 'pictures', '--interval', '3']
        return self.run_in(folder, 'tools/test.py', self.config, self.checkpoint, *kept)

    def _distributed(self) -> Path:
        folder = self.folder / 'distributed'
        self.run_two(folder / 'trained', 'tools/dist_train.sh', self.watched(self.config), '2', *NO_BEST, 'train_cfg.max_epochs=1')
        self.run_two(folder / 'tested', 'tools/dist_test.sh', self.config, self.checkpoint, '2')
        return folder

    @property
    def trained(self) -> Path:
        """A whole training by tools/train.py."""
        return self.jobs['_train'].result()

    @property
    def checkpoint(self) -> Path:
        """The last one of :attr:`trained`."""
        return self.trained / 'epoch_3.pth'

    @property
    def tested(self) -> Path:
        """A test of that checkpoint by tools/test.py, which keeps ``scores.pkl`` and ``pictures``."""
        return self.jobs['_test'].result()

    @property
    def killed(self) -> Path:
        """The same training, killed in the middle of epoch 2."""
        return self.jobs['_die'].result()

    @property
    def resumed(self) -> Path:
        """A copy of it, gone on with by ``--resume``."""
        return self.jobs['_resume'].result()

    @property
    def distributed(self) -> Path:
        """One epoch by two processes in ``trained``, and a test by two in ``tested``."""
        return self.jobs['_distributed'].result()


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
