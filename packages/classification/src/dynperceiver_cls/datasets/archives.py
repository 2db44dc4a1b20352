"""Data sets whose images lie together in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynperceiver.data import in_words
from dynperceiver_runtime import UserError

from .base import ImageDataset

__all__ = ['Archive', 'ArchiveDataset']


class Archive:
    """Images and labels of one split, read once per process.

    Copies share the images. A copy in another process reads them again, so that only the path is sent there; workers that are forked share
    the memory of the process that forked them.

    Args:
        path: File or folder.
        split: The split's name.

    Attributes:
        labels: Class number of every image.
        groups: Name of the group of every image, None where it has no groups.
        classes: Names of the classes.
    """

    labels: Sequence[int]
    groups: Sequence[str] | None = None
    classes: tuple[str, ...]

    def __init__(self, path: str, split: str) -> None:
        self.path = path
        self.split = split

    def read(self, position: int) -> bytes:
        """Return the content of an image file, by its number in the split."""
        raise NotImplementedError

    def __reduce__(self) -> tuple[Any, ...]:
        """Send the path, not the images."""
        return type(self), (self.path, self.split)

    def __deepcopy__(self, memo: dict[int, Any]) -> Archive:
        """Nothing here changes, so that copies may share it."""
        return self


class ArchiveDataset(ImageDataset):
    """A data set of the images of an :class:`Archive`, which a subclass opens.

    Args:
        args: Passed on to :class:`ImageDataset`.
        split: Which split to take.
        kwargs: Passed on to :class:`ImageDataset`.

    Raises:
        MissingFileError: If the data is missing (with ``lazy_init=True``: when first needed).
        UserError: If it is broken, ``metainfo['classes']`` differs from the archive's, or there is a ``group_pattern``.
    """

    entry_name = 'entry'

    def __init__(self, *args: Any, split: str = 'train', **kwargs: Any) -> None:
        if kwargs.get('group_pattern') is not None:
            raise UserError(
                f'group_pattern={kwargs["group_pattern"]!r} needs paths, and images of an archive have none; leave it out. Groups of an '
                'npz file for PackedImages stand in its array SPLIT_group.'
            )
        self.split = split
        self._archive: Archive | None = None
        super().__init__(*args, **kwargs)

    def open_archive(self, path: str) -> Archive:
        """Read what lies at a path."""
        raise NotImplementedError

    def load_samples(self) -> list[dict[str, Any]]:
        """Read the archive."""
        archive = self._archive = self.open_archive(self.ann_file)
        given = self.given_classes()
        if given not in (None, archive.classes):
            raise UserError(
                f"metainfo['classes'] is {in_words(given, 10)} ({len(given)}), but {self.ann_file} has {in_words(archive.classes, 10)} "
                f'({len(archive.classes)}); leave the classes out of the config, or give them as they are there, in that order.'
            )
        self._metainfo['classes'] = archive.classes
        name = self.ann_file.rstrip('/').rpartition('/')[2]
        samples = [{'img_path': f'{name}#{self.split}/{i}', 'gt_label': label, 'position': i} for i, label in enumerate(archive.labels)]
        if archive.groups is not None:
            samples = [{**sample, 'group': group} for sample, group in zip(samples, archive.groups, strict=True)]
        return samples

    def split_name(self, info: dict[str, Any]) -> str:
        """Return the name that an image is known by: its number in the split, whatever the archive is called."""
        return f'{self.split}/{info["position"]}'

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return the info of a sample, with its image as ``img_bytes``."""
        info = super().get_data_info(idx)
        info['img_bytes'] = self._archive.read(info.pop('position'))
        return info
