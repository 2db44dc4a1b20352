"""Runs of the tools on tiny photos."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from tiny_detection import LEAVES, make_photos, write_detection_config
from tool_runs import TaskRuns, installed_tool

__all__ = ['DetectionRuns']


class DetectionRuns(TaskRuns):
    """The runs; those by the tools that mmdet installs have its name.

    Attributes:
        data: The photos: 4 to train on, 5 to test on.
        config: Tiny leaf of the paper's RetinaNet on COCO: two epochs of two iterations.
    """

    kept = ('--out', 'result.pkl', '--show-dir', 'pictures')

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.data = make_photos(folder / 'data', num_train=4)
        leaf = LEAVES / 'retinanet_dynperceiver-regnety-1.6gf_fpn_1x_coco.py'
        self.config = write_detection_config(folder / 'tiny.py', leaf, self.data)

    @cached_property
    def tested(self) -> Path:
        """A test of the last checkpoint, which also leaves ``result.bbox.json``."""
        json_too = f'test_evaluator.outfile_prefix={self.folder / "tested" / "result"}'
        return self.run('tested', 'tools/test.py', self.config, self.checkpoint, *self.kept, '--cfg-options', json_too)

    @cached_property
    def augmented(self) -> Path:
        """The same with --tta."""
        return self.run('augmented', 'tools/test.py', self.config, self.checkpoint, '--tta')

    @cached_property
    def mmdet_trained(self) -> Path:
        """The same training by mmdet's tool."""
        return self.run('mmdet_trained', installed_tool('mmdet', 'train'), self.config)

    @cached_property
    def mmdet_tested(self) -> Path:
        """A test of the checkpoint by mmdet's tool."""
        return self.run('mmdet_tested', installed_tool('mmdet', 'test'), self.config, self.checkpoint, *self.kept)
