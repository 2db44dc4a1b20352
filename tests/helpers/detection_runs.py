"""Runs of the tools on tiny photos, shared by all tests that look at what they leave: each starts once, two at a time."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from tiny_action import finish, start, write_hooked_config
from tiny_detection import LEAVES, make_photos, write_detection_config

__all__ = ['DetectionRuns', 'mmdet_tool']

# The config that runs get: the tiny one, whose text is not laid out.
QUICK = """\
_base_ = ['tiny.py']
custom_imports = dict(imports=['dynperceiver_det', 'quick_layout'], allow_failed_imports=False)
"""


def mmdet_tool(name: str) -> Path:
    """A script that comes with the installed mmdet."""
    spec = find_spec('mmdet')
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / '.mim' / 'tools' / f'{name}.py'


class DetectionRuns:
    """The runs, each a property that waits for it and gives its work dir.

    Attributes:
        data: The photos: 8 to train on, 5 to test on.
        config: Tiny leaf of the paper's RetinaNet on COCO: two epochs of four iterations.
        records: Folder with what each of two ranks saw; see ``RecordRankHook``.
        output: What each run printed, by the name of its work dir.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = make_photos(folder / 'data')
        self.config = write_detection_config(folder / 'tiny.py', LEAVES / 'retinanet_dynperceiver-regnety-1.6gf_fpn_1x_coco.py', self.data)
        # Here and not in the pool: to find `mmdet::` configs MMEngine reloads a module, which two threads must not do at once.
        self.blood = write_detection_config(folder / 'blood.py', LEAVES / 'faster-rcnn_dynperceiver-r18x0.5_fpn_bccd.py', self.data)
        self.quick = folder / 'quick.py'
        self.quick.write_text(QUICK)
        self.records = folder / 'records'
        self.records.mkdir()
        self.processes: list[subprocess.Popen[str]] = []
        self.output: dict[str, str] = {}
        self.pool = ThreadPoolExecutor(2)
        # Those that others wait for come first, so that no two workers wait for a third.
        jobs = [self._train, self._train_by_mmdet, self._test, self._test_by_mmdet, self._test_augmented, self._resume, self._distributed]
        self.jobs: dict[str, Future[Path]] = {job.__name__: self.pool.submit(job) for job in jobs}

    def close(self) -> None:
        """End what still runs."""
        for job in self.jobs.values():
            job.cancel()
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        self.pool.shutdown()

    def _run(self, folder: Path, *command: str | Path, python: bool = True, **variables: str) -> Path:
        """Run a tool with a work dir; other files that it is to leave have absolute paths."""
        process = start([*command, '--work-dir', folder], python=python, **variables)
        self.processes.append(process)
        self.output[folder.name] = ''.join(finish(process))
        return folder

    def _train(self) -> Path:
        return self._run(self.folder / 'trained', 'tools/train.py', self.quick)

    def _train_by_mmdet(self) -> Path:
        return self._run(self.folder / 'mmdet_trained', mmdet_tool('train'), self.quick)

    def _resume(self) -> Path:
        folder = self.folder / 'resumed'
        folder.mkdir()
        shutil.copy(self.trained / 'epoch_1.pth', folder)
        (folder / 'last_checkpoint').write_text(str(folder / 'epoch_1.pth'))
        return self._run(folder, 'tools/train.py', self.quick, '--resume')

    def _test(self) -> Path:
        folder = self.folder / 'tested'
        kept = ['--out', folder / 'result.pkl', '--show-dir', folder / 'pictures']
        json_too = ['--cfg-options', f'test_evaluator.outfile_prefix={folder / "result"}']
        return self._run(folder, 'tools/test.py', self.quick, self.checkpoint, *kept, *json_too)

    def _test_by_mmdet(self) -> Path:
        folder = self.folder / 'mmdet_tested'
        kept = ['--out', folder / 'result.pkl', '--show-dir', folder / 'pictures']
        return self._run(folder, mmdet_tool('test'), self.quick, self.checkpoint, *kept)

    def _test_augmented(self) -> Path:
        return self._run(self.folder / 'augmented', 'tools/test.py', self.quick, self.checkpoint, '--tta')

    def _distributed(self) -> Path:
        watched = write_hooked_config(self.folder / 'watched.py', self.blood, f"type='RecordRankHook', folder='{self.records}'")
        watched.write_text(watched.read_text().replace("'dynperceiver_action'", "'dynperceiver_det', 'quick_layout'"))
        with socket.socket() as probe:
            probe.bind(('127.0.0.1', 0))
            port = str(probe.getsockname()[1])
        options = ['--cfg-options', 'train_cfg.max_epochs=1']
        return self._run(self.folder / 'distributed', 'tools/dist_train.sh', watched, '2', *options, python=False, PORT=port)

    @property
    def trained(self) -> Path:
        """A whole training by tools/train.py."""
        return self.jobs['_train'].result()

    @property
    def checkpoint(self) -> Path:
        """The last one of :attr:`trained`."""
        return self.trained / 'epoch_2.pth'

    @property
    def tested(self) -> Path:
        """A test of that checkpoint by tools/test.py, which keeps ``result.pkl``, ``result.bbox.json`` and ``pictures``."""
        return self.jobs['_test'].result()

    @property
    def augmented(self) -> Path:
        """A test of that checkpoint by tools/test.py with --tta."""
        return self.jobs['_test_augmented'].result()

    @property
    def resumed(self) -> Path:
        """The training once more, from the checkpoint of its first epoch."""
        return self.jobs['_resume'].result()

    @property
    def mmdet_trained(self) -> Path:
        """The same training by the tool that mmdet installs."""
        return self.jobs['_train_by_mmdet'].result()

    @property
    def mmdet_tested(self) -> Path:
        """A test of the checkpoint by the tool that mmdet installs, which keeps ``result.pkl`` and ``pictures``."""
        return self.jobs['_test_by_mmdet'].result()

    @property
    def distributed(self) -> Path:
        """One epoch of Faster R-CNN from the tiny leaf of blood cells, by two processes."""
        return self.jobs['_distributed'].result()
