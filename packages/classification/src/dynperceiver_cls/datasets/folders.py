"""A folder for every class."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from mmengine.logging import print_log

from dynperceiver.data import in_words
from dynperceiver_runtime import UserError
from dynperceiver_runtime.files import reading

from ..registry import DATASETS
from .base import ImageDataset

__all__ = ['IMAGE_EXTENSIONS', 'ImageFolder', 'find_images', 'list_folders']

IMAGE_EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.ppm', '.pgm', '.tif', '.tiff', '.webp')


def list_folders(root: str) -> list[str]:
    """List the folders in a folder, sorted by name; names that begin with a dot do not count.

    Args:
        root: The folder.
    """
    with reading(root, 'folder'), os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith('.') and entry.is_dir())


def find_images(folder: str, extensions: Sequence[str] = IMAGE_EXTENSIONS) -> list[str]:
    """Find the images in a folder and the folders within, except by links to folders.

    A name counts by its extension, in small or capital letters, unless it begins with a dot.

    Args:
        folder: Where to look.
        extensions: In small letters, with their dots.

    Returns:
        Their paths, sorted.
    """
    endings, paths, waiting = tuple(extensions), [], [folder]
    while waiting:
        place = waiting.pop()
        with reading(place, 'folder'), os.scandir(place) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith('.'):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif name.lower().endswith(endings) and not (entry.is_symlink() and entry.is_dir()):
                    paths.append(entry.path)
    return sorted(paths)


@DATASETS.register_module()
class ImageFolder(ImageDataset):
    """Images in a folder per class: ``root/CLASS/NAME.jpg``, or deeper.

    ``root`` is ``data_prefix['img_path']`` below ``data_root``. Classes are numbered by their folders' names, sorted, or in the order of
    ``metainfo['classes']``. Every class must have a folder with an image in it, and every folder must be a class, because a folder more or
    less would shift the numbers of the others.

    Args:
        class_folder: Folder, below ``data_root``, whose folders are the classes. Give the training set's folder to a test set: then a class
            that the test set lacks is an error.
        extensions: What image files' names end in, in small letters; capital ones count as well.
        kwargs: Passed on to :class:`ImageDataset`.

    Raises:
        MissingFileError: If a folder is missing (with ``lazy_init=True``: when first needed).
        UserError: If there are no classes, a class has no images, or classes and folders differ.
    """

    entry_name = 'image file'

    def __init__(self, *, class_folder: str | None = None, extensions: Sequence[str] = IMAGE_EXTENSIONS, **kwargs: Any) -> None:
        self.class_folder = class_folder
        self.extensions = tuple(extensions)
        super().__init__(**kwargs)

    def load_samples(self) -> list[dict[str, Any]]:
        """Search the folders.

        Raises:
            UserError: If they are not as the class says.
        """
        root = self.data_prefix.get('img_path', '').rstrip('/')
        if not root:
            raise UserError("there is no folder of images; set data_root, or data_prefix=dict(img_path='FOLDER').")
        folders = list_folders(root)
        self._check_layout(root, folders)
        classes = self.expected_classes() or tuple(folders)
        _compare(classes, folders, root)
        samples = []
        empty = []
        for label, name in enumerate(classes):
            paths = find_images(f'{root}/{name}', self.extensions)
            samples += [{'img_path': path, 'gt_label': label} for path in paths]
            if not paths:
                empty.append(name)
        if empty:
            raise UserError(
                f'{root}: {len(empty)} of {len(classes)} class folders have no image: {in_words(empty)}. Images end in '
                f'{in_words(self.extensions, 20)}; unpack them completely, remove the folder if it is no class, or set extensions.'
            )
        self._metainfo['classes'] = classes
        return samples

    def expected_classes(self) -> tuple[str, ...] | None:
        """Return the classes that the config names, itself or by a folder, or None.

        Raises:
            MissingFileError: If that folder is missing.
            UserError: If both are there and differ.
        """
        given = self.given_classes()
        if self.class_folder is None:
            return given
        folder = os.path.join(self.data_root or '', self.class_folder)
        if not os.path.isdir(folder):
            raise self.missing_data('folder', folder)
        classes = given or tuple(list_folders(folder))
        _compare(classes, list_folders(folder), folder)
        return classes

    def _check_layout(self, root: str, folders: Sequence[str]) -> None:
        with os.scandir(root) as entries:
            stray = [entry.name for entry in entries if entry.name.lower().endswith(self.extensions) and entry.name not in folders]
        if not folders:
            what = f'only {len(stray)} images, for example {min(stray)}' if stray else 'no folder'
            raise UserError(
                f'{root} must have a folder for every class, but has {what}. Sort the images into folders, point data_prefix to another '
                'folder, or list images and labels in a CSV file for dynperceiver_cls.CSVImages.'
            )
        if stray:
            text = f'{root}: {len(stray)} images lie in no class folder and are left out, for example {min(stray)}'
            print_log(text, logger='current', level=logging.WARNING)


def _compare(classes: Sequence[str], folders: Sequence[str], root: str) -> None:
    lacking, unknown = sorted(set(classes) - set(folders)), sorted(set(folders) - set(classes))
    problems = []
    if lacking:
        problems.append(f'{len(lacking)} of {len(classes)} classes have no folder: {in_words(lacking)}')
    if unknown:
        problems.append(f'{len(unknown)} of {len(folders)} folders are no class: {in_words(unknown)}')
    if problems:
        raise UserError(
            f"{root}: {'; '.join(problems)}. Folders and classes must be the same; correct metainfo['classes'] or class_folder, unpack the "
            'images completely, or remove what is no class.'
        )
