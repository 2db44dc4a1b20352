"""Runs of the tools on tiny clips, shared by all tests that look at what they leave: each starts once, two at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny_action
from tiny_action import write_config
from tool_runs import NO_BEST, ROOT, EarlyExitRuns, installed_tool


class TinyRuns(EarlyExitRuns):
    """The runs.

    Attributes:
        data: The clips: 16 to train on, 7 to test on (an odd number, which two processes cannot share evenly).
        config: Leaf config: three epochs of four iterations.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.data = tiny_action.make_clips(folder / 'data', num_train=16, num_val=7)
        self.config = write_config(folder / 'tiny.py', self.data)
        self.submit(self._train, self._die, self._train_by_mmaction, self._test, self._test_by_mmaction, self._resume)
        self.submit(self._distributed)  # two processes each, so one after the other

    def _train(self) -> Path:
        self.run('tools/train.py', self.config)
        return self.folder / 'tiny_work'

    def _train_by_mmaction(self) -> Path:
        tool = installed_tool('mmaction', 'train')
        return self.run_in(self.folder / 'mmaction_trained', tool, self.config, *NO_BEST, 'train_cfg.max_epochs=1')

    def _test_by_mmaction(self) -> Path:
        folder = self.folder / 'mmaction_tested'
        kept = ['--dump', folder / 'scores.pkl', '--show-dir', folder / 'pictures', '--interval', '3']
        return self.run_in(folder, installed_tool('mmaction', 'test'), self.config, self.checkpoint, *kept)

    @property
    def mmaction_trained(self) -> Path:
        """The first epoch of the same training by the tool that mmaction2 installs."""
        return self.jobs['_train_by_mmaction'].result()

    @property
    def mmaction_tested(self) -> Path:
        """A test of the checkpoint by the tool that mmaction2 installs."""
        return self.jobs['_test_by_mmaction'].result()


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
