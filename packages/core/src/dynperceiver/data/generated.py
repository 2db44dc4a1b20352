"""Folders of generated data, made whole or not at all, and not twice."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dynperceiver_runtime import ExistingFileError, MissingPackageError
from dynperceiver_runtime.files import REFUSALS, make_folders, write_json, writing

__all__ = ['is_generated', 'load_digits', 'make_folder']

MANIFEST = 'manifest.json'


def is_generated(folder: str | Path, identity: Mapping[str, Any], list_files: Callable[[Path], list[str]]) -> bool:
    """Tell whether a folder holds a complete generated data set.

    Args:
        folder: The folder.
        identity: What the manifest must say.
        list_files: Reads from the folder the names of the files that belong to it; may raise where something is missing.

    Returns:
        True if the manifest says so, and every file is there and not empty.
    """
    folder = Path(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding='utf-8'))
        if any(manifest[key] != value for key, value in identity.items()):
            return False
        names = list_files(folder)
        return bool(names) and all(os.path.getsize(folder / name) > 0 for name in names)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return False


def load_digits() -> Any:
    """Scikit-learn's 1,797 handwritten digits (UCI, 8x8 pixels; shipped with scikit-learn, no download), of which all demo data are made.

    Returns:
        Scikit-learn's object with ``images``, shape (1797, 8, 8) with values from 0 to 16, and ``target``.

    Raises:
        MissingPackageError: If scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise MissingPackageError(
            f'the demo data show the handwritten digits of scikit-learn, which cannot be imported ({error}); install it: '
            'pip install scikit-learn'
        ) from error
    return datasets.load_digits()


def make_folder(
    folder: str | Path,
    identity: Mapping[str, Any],
    list_files: Callable[[Path], list[str]],
    fill: Callable[[Path], Mapping[str, Any]],
) -> bool:
    """Generate a data set, unless it is there already.

    Everything is written beside the folder first and renamed at the end: an interrupted run leaves no half data set.

    Args:
        folder: Folder to make.
        identity: What makes the data set this one, as JSON; it goes into the manifest.
        list_files: See :func:`is_generated`.
        fill: Writes the files into an empty folder, and returns what else the manifest shall say.

    Returns:
        True if it was made, False if it was there.

    Raises:
        ExistingFileError: If the folder holds something that is not such a data set.
        FileError: If it cannot be written, for example since the disk is full.
    """
    folder = Path(folder)
    if is_generated(folder, identity, list_files):
        return False
    if folder.exists() and not (folder / MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExistingFileError(f'{folder} exists and is not a demo data set (no {MANIFEST} in it); choose another folder or remove it.')
    make_folders(folder.parent)
    with writing(folder, 'data set', only=REFUSALS):
        work_dir = Path(tempfile.mkdtemp(prefix=f'.{folder.name}-', dir=folder.parent))
        try:
            made = work_dir / 'new'
            made.mkdir()
            write_json(made / MANIFEST, {**identity, **fill(made)})
            if folder.exists():
                folder.rename(work_dir / 'old')
            try:
                made.rename(folder)
            except OSError:
                # Another process may have finished the same data set first.
                if not is_generated(folder, identity, list_files):
                    raise
        finally:
            shutil.rmtree(work_dir, ignore_errors=True)
    return True
