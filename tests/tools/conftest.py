"""Runs of the tools on tiny clips, shared by all tests that look at what they leave: each starts once, two at a time."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
import tiny_action
from tiny_action import ROOT, finish, start, write_config, write_hooked_config

KILLED_AT = 6  # of 12 iterations, 4 per epoch: in the middle of epoch 2
NO_BEST = 'default_hooks.checkpoint.save_best=None'


def free_port() -> str:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])


def mmaction_tool(name: str) -> Path:
    """A script that comes with the installed mmaction2."""
    spec = find_spec('mmaction')
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / '.mim' / 'tools' / f'{name}.py'


class TinyRuns:
    """The runs, each a property that waits for it and gives its work dir.

    Attributes:
        data: The clips: 16 to train on, 7 to test on (an odd number, which two processes cannot share evenly).
        config: Leaf config: three epochs of four iterations.
        records: Folder with what each of two ranks saw; see ``RecordRankHook``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = tiny_action.make_clips(folder / 'data', num_train=16, num_val=7)
        self.config = write_config(folder / 'tiny.py', self.data)
        self.records = folder / 'records'
        self.records.mkdir()
        self.processes: list[subprocess.Popen[str]] = []
        self.output: dict[str, str] = {}
        self.pool = ThreadPoolExecutor(2)
        # Those that others wait for come first, so that no two workers wait for a third.
        jobs = [self._train, self._die, self._train_by_mmaction, self._test, self._test_by_mmaction, self._resume]
        self.jobs: dict[str, Future[Path]] = {job.__name__: self.pool.submit(job) for job in jobs}
        # Two processes each, so one after the other.
        self.jobs['_distributed'] = self.pool.submit(self._distributed)

    def close(self) -> None:
        """End what still runs."""
        for job in self.jobs.values():
            job.cancel()
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        self.pool.shutdown()

    def _run(self, *command: str | Path, code: int = 0, python: bool = True, **variables: str) -> None:
        process = start(command, python=python, **variables)
        self.processes.append(process)
        self.output[' '.join(map(str, command[:2]))] = ''.join(finish(process, code))

    def _train(self) -> Path:
        self._run('tools/train.py', self.config)
        return self.folder / 'tiny_work'

    def _die(self) -> Path:
        dying = write_hooked_config(self.folder / 'dying.py', self.config, f"type='KillHook', at={KILLED_AT}")
        self._run('tools/train.py', dying, '--work-dir', self.folder / 'killed', '--cfg-options', NO_BEST, code=-signal.SIGKILL)
        return self.folder / 'killed'

    def _resume(self) -> Path:
        folder = shutil.copytree(self.killed, self.folder / 'resumed')
        (folder / 'last_checkpoint').write_text(str(folder / 'epoch_1.pth'))
        self._run('tools/train.py', self.config, '--work-dir', folder, '--resume', '--cfg-options', NO_BEST)
        return Path(folder)

    def _test(self) -> Path:
        folder = self.folder / 'tested'
        drawn = ['--show-dir', folder / 'pictures', '--interval', '3']
        self._run('tools/test.py', self.config, self.checkpoint, '--work-dir', folder, '--out', folder / 'scores.pkl', *drawn)
        return folder

    def _train_by_mmaction(self) -> Path:
        folder = self.folder / 'mmaction_trained'
        self._run(mmaction_tool('train'), self.config, '--work-dir', folder, '--cfg-options', 'train_cfg.max_epochs=1', NO_BEST)
        return folder

    def _test_by_mmaction(self) -> Path:
        folder = self.folder / 'mmaction_tested'
        options = ['--dump', folder / 'scores.pkl', '--show-dir', folder / 'pictures', '--interval', '3']
        self._run(mmaction_tool('test'), self.config, self.checkpoint, '--work-dir', folder, *options)
        return folder

    def _distributed(self) -> Path:
        folder = self.folder / 'distributed'
        watched = write_hooked_config(self.folder / 'watched.py', self.config, f"type='RecordRankHook', folder='{self.records}'")
        short = ['--cfg-options', 'train_cfg.max_epochs=1', NO_BEST]
        script, port = 'tools/dist_train.sh', free_port()
        self._run(script, watched, '2', '--work-dir', folder / 'trained', *short, python=False, PORT=port)
        script, port = 'tools/dist_test.sh', free_port()
        self._run(script, self.config, self.checkpoint, '2', '--work-dir', folder / 'tested', python=False, PORT=port)
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
        """A test of that checkpoint by tools/test.py."""
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
    def mmaction_trained(self) -> Path:
        """The first epoch of the same training by the tool that mmaction2 installs."""
        return self.jobs['_train_by_mmaction'].result()

    @property
    def mmaction_tested(self) -> Path:
        """A test of the checkpoint by the tool that mmaction2 installs."""
        return self.jobs['_test_by_mmaction'].result()

    @property
    def distributed(self) -> Path:
        """One epoch by two processes in ``trained``, and a test by two in ``tested``."""
        return self.jobs['_distributed'].result()


@pytest.fixture(scope='session')
def tiny_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyRuns]:
    """The shared runs."""
    runs = TinyRuns(tmp_path_factory.mktemp('tiny'))
    yield runs
    runs.close()


@pytest.fixture(scope='session')
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config like that of :class:`TinyRuns` with clips of its own, for trainings within the test process."""
    folder = tmp_path_factory.mktemp('quick')
    return write_config(folder / 'tiny.py', tiny_action.make_clips(folder / 'data', num_train=16, num_val=7))


@pytest.fixture
def call_tool(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Function that runs ``tools/NAME.py`` within this process, as ``python tools/NAME.py ARGUMENTS`` would."""

    def call(name: str, *arguments: str | Path) -> None:
        import logging
        import runpy

        script = ROOT / 'tools' / f'{name}.py'
        monkeypatch.setattr('sys.argv', [str(script), *map(str, arguments)])
        try:
            runpy.run_path(str(script), run_name='__main__')
        finally:
            logging.disable(logging.NOTSET)

    return call
