"""ARID-6: six human actions in the dark, from the table that the data set ships with."""

from __future__ import annotations

import csv
import os.path as osp
from typing import Any

from dynperceiver_runtime import UserError
from dynperceiver_runtime.files import reading

from ..registry import DATASETS
from .datasets import VideoDataset

__all__ = ['Arid6Dataset']

_COLUMNS = ('split', 'label', 'class', 'file')


@DATASETS.register_module()
class Arid6Dataset(VideoDataset):
    """The videos of ARID-6 in their official split, read from ``labels.csv``.

    Each row of the table names a split, the label 0..5 and its class, the video file relative to ``data_prefix['video']``, and its number
    of frames. 150 videos are for training and 96 for testing.

    Args:
        args: Passed on to :class:`VideoDataset`; ``ann_file`` is the table.
        split: ``'train'`` or ``'validate'``, as the table calls them.
        kwargs: Passed on to :class:`VideoDataset`.

    Raises:
        UserError: If the table lacks a column or has no row of this split.
    """

    METAINFO = dict(classes=('Jump', 'Run', 'Sit', 'Stand', 'Turn', 'Walk'))

    def __init__(self, *args: Any, split: str, **kwargs: Any) -> None:
        self.split = split
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Read the rows of the split."""
        self._require_data()
        with reading(self.ann_file, 'annotation file'), open(self.ann_file, newline='', encoding='utf-8') as file:
            reader = csv.DictReader(file)
            lacking = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            if lacking:
                raise UserError(
                    f'{self.ann_file} has columns {reader.fieldnames}, but {", ".join(_COLUMNS)} are needed; use its labels.csv.'
                )
            rows = list(reader)
        folder = self.data_prefix['video']
        data_list = [dict(filename=osp.join(folder, row['file']), label=int(row['label'])) for row in rows if row['split'] == self.split]
        if not data_list:
            splits = ', '.join(sorted({row['split'] for row in rows})) or 'none'
            raise UserError(f'split={self.split!r} has no row in {self.ann_file}; it must be one of its splits: {splits}.')
        return data_list
