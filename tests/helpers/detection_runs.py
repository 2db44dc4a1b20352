"""Runs of the tools on tiny photos, shared by all tests that look at what they leave: each starts once, two at a time."""

from __future__ import annotations

import shutil
from pathlib import Path

from tiny_detection import LEAVES, make_photos, write_detection_config
from tool_runs import ToolRuns, installed_tool, write_quick_config

__all__ = ['DetectionRuns']


class DetectionRuns(ToolRuns):
    """The runs.

    Attributes:
        data: The photos: 8 to train on, 5 to test on.
        config: Tiny leaf of the paper's RetinaNet on COCO: two epochs of four iterations.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.data = make_photos(folder / 'data')
        self.config = write_detection_config(folder / 'tiny.py', LEAVES / 'retinanet_dynperceiver-regnety-1.6gf_fpn_1x_coco.py', self.data)
        # Here and not in the pool: to find `mmdet::` configs MMEngine reloads a module, which two threads must not do at once.
        blood = write_detection_config(folder / 'blood.py', LEAVES / 'faster-rcnn_dynperceiver-r18x0.5_fpn_bccd.py', self.data)
        self.blood = write_quick_config(folder / 'quick_blood.py', blood)
        self.quick = write_quick_config(folder / 'quick.py', self.config)
        self.submit(self._train, self._train_by_mmdet, self._test, self._test_by_mmdet, self._test_augmented)
        self.submit(self._resume, self._distributed)

    def _train(self) -> Path:
        return self.run_in(self.folder / 'trained', 'tools/train.py', self.quick)

    def _train_by_mmdet(self) -> Path:
        return self.run_in(self.folder / 'mmdet_trained', installed_tool('mmdet', 'train'), self.quick)

    def _resume(self) -> Path:
        folder = self.folder / 'resumed'
        folder.mkdir()
        shutil.copy(self.trained / 'epoch_1.pth', folder)
        (folder / 'last_checkpoint').write_text(str(folder / 'epoch_1.pth'))
        return self.run_in(folder, 'tools/train.py', self.quick, '--resume')

    def _test(self) -> Path:
        folder = self.folder / 'tested'
        kept = ['--out', folder / 'result.pkl', '--show-dir', folder / 'pictures']
        json_too = ['--cfg-options', f'test_evaluator.outfile_prefix={folder / "result"}']
        return self.run_in(folder, 'tools/test.py', self.quick, self.checkpoint, *kept, *json_too)

    def _test_by_mmdet(self) -> Path:
        folder = self.folder / 'mmdet_tested'
        kept = ['--out', folder / 'result.pkl', '--show-dir', folder / 'pictures']
        return self.run_in(folder, installed_tool('mmdet', 'test'), self.quick, self.checkpoint, *kept)

    def _test_augmented(self) -> Path:
        return self.run_in(self.folder / 'augmented', 'tools/test.py', self.quick, self.checkpoint, '--tta')

    def _distributed(self) -> Path:
        options = ['--cfg-options', 'train_cfg.max_epochs=1']
        return self.run_two(self.folder / 'distributed', 'tools/dist_train.sh', self.watched(self.blood), '2', *options)

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
