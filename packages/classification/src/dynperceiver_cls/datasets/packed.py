"""Many images in one npz file."""

from __future__ import annotations

import zipfile
from typing import Any

import numpy as np

from dynperceiver.data import in_words
from dynperceiver_runtime import UserError

from ..registry import DATASETS
from .archives import Archive, ArchiveDataset

__all__ = ['PackedFile', 'PackedImages']


class PackedFile(Archive):
    """One split of an npz file.

    Args:
        path: The npz file.
        split: Which arrays to read: ``{split}_jpeg``, ``{split}_offset``, ``{split}_label``, and ``{split}_group`` where it is there.

    Raises:
        UserError: If the file is broken, or its arrays are not what is expected; the text names file and array.
    """

    def __init__(self, path: str, split: str) -> None:
        super().__init__(path, split)
        names = [f'{split}_jpeg', f'{split}_offset', f'{split}_label', 'classes']
        try:
            with np.load(path, allow_pickle=False) as arrays:
                found = list(arrays.files)
                lacking = [name for name in names if name not in found]
                if not lacking:
                    stream, offsets, labels, classes = (arrays[name] for name in names)
                    groups = arrays[f'{split}_group'] if f'{split}_group' in found else None
        except (zipfile.BadZipFile, EOFError, OSError, ValueError, AttributeError, TypeError) as error:
            raise UserError(f'{path} is no complete npz file ({type(error).__name__}: {error}); copy or make it again.') from error
        if lacking:
            splits = sorted(name.removesuffix('_jpeg') for name in found if name.endswith('_jpeg'))
            raise UserError(
                f'{path} lacks the arrays {in_words(lacking)}; it has {in_words(found, 12) or "none"}. '
                + (f'Set split to one of {", ".join(splits)}.' if splits else 'It needs them for the split, and its classes.')
            )
        self._check(stream, offsets, labels, classes)
        self.labels: list[int] = labels.tolist()
        if groups is not None:
            self.groups = self._group_names(groups)
        self.classes = tuple(str(name) for name in classes)
        self._stream, self._offsets = stream, offsets

    def read(self, position: int) -> bytes:
        """Return the content of an image file, by its number in the split."""
        return self._stream[self._offsets[position] : self._offsets[position + 1]].tobytes()

    def _group_names(self, groups: np.ndarray) -> list[str]:
        if groups.dtype.kind not in 'iuU' or groups.shape != (len(self.labels),):
            raise UserError(
                f'{self.path}: {self.split}_group must be a whole number or a name per image, and there are {len(self.labels)} images, but '
                f'it is {_describe(groups)}; make the file again.'
            )
        names = [str(group).strip() for group in groups.tolist()]
        if '' in names:
            raise UserError(
                f'{self.path}: {self.split}_group has no name for {names.count("")} of {len(names)} images, for example image '
                f'{names.index("")}; name a group for each, or make the file without this array.'
            )
        return names

    def _check(self, stream: np.ndarray, offsets: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> None:
        where = f'{self.path}: {self.split}'
        if stream.dtype != np.uint8 or stream.ndim != 1:
            raise UserError(f'{where}_jpeg must be the bytes of all images in a row, but is {_describe(stream)}; make the file again.')
        if offsets.dtype.kind not in 'iu' or offsets.ndim != 1 or len(offsets) < 2:
            raise UserError(
                f'{where}_offset must be whole numbers, one more than there are images, but is {_describe(offsets)}; make the file again.'
            )
        wrong = np.flatnonzero(offsets[1:] < offsets[:-1])
        if len(wrong) or offsets[0] < 0:
            i = int(wrong[0]) + 1 if len(wrong) else 0
            after = f' after {offsets[i - 1]}' if i else ''
            raise UserError(f'{where}_offset must rise from 0, but entry {i} is {offsets[i]}{after}; make the file again.')
        if offsets[-1] != len(stream):
            raise UserError(
                f'{where}_offset ends at byte {offsets[-1]}, but {self.split}_jpeg has {len(stream)} bytes; the arrays are not of one '
                'file, or were cut: make the file again.'
            )
        if labels.dtype.kind not in 'iu' or labels.shape != (len(offsets) - 1,):
            raise UserError(
                f'{where}_label must be a whole number per image, and {self.split}_offset counts {len(offsets) - 1} images, but it is '
                f'{_describe(labels)}; make the file again.'
            )
        if classes.dtype.kind != 'U' or classes.ndim != 1:
            raise UserError(f'{self.path}: classes must be names, but is {_describe(classes)}; make the file again.')
        bad = np.flatnonzero((labels < 0) | (labels >= len(classes)))
        if len(bad):
            raise UserError(
                f'{where}_label must be in [0, {len(classes) - 1}], as there are {len(classes)} classes, but image {bad[0]} has label '
                f'{labels[bad[0]]} ({len(bad)} such labels); correct the labels, or the classes.'
            )


@DATASETS.register_module()
class PackedImages(ArchiveDataset):
    """Images of an npz file.

    For every split, it has the arrays ``{split}_jpeg`` (uint8, the contents of all image files in a row, of any format), ``{split}_offset``
    (int64, n + 1; where each begins, and the end) and ``{split}_label`` (whole numbers, n), and once ``classes`` (names in label order).
    It may have ``{split}_group`` (whole numbers or names, n), which says what images belong together, such as frames of a video: they stay
    in one part when a part is held out.

    Args:
        ann_file: The npz file.
        args: Passed on to :class:`ArchiveDataset`.
        kwargs: Passed on to :class:`ArchiveDataset` (``split``) and :class:`ImageDataset` (``part``, ``holdout``, ``split_seed``).

    Raises:
        MissingFileError: If the file is missing (with ``lazy_init=True``: when first needed).
        UserError: If the file is broken, its arrays are not as described, or ``metainfo['classes']`` differs from the file's.
    """

    def __init__(self, ann_file: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(ann_file, *args, **kwargs)

    def open_archive(self, path: str) -> PackedFile:
        """Read the file."""
        return PackedFile(path, self.split)


def _describe(array: np.ndarray) -> str:
    return f'an array of {array.dtype} with shape {array.shape}'
