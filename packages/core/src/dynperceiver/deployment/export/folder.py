"""Exported folders on disk: whole or not at all, and never over what is not theirs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from dynperceiver_runtime.engines.base import EngineError
from dynperceiver_runtime.engines.manifest import FORMAT, MANIFEST, POLICY, VERSION, Manifest, read_manifest
from dynperceiver_runtime.errors import ExistingFileError
from dynperceiver_runtime.files import REFUSALS, make_folders, write_json, writing

__all__ = ['check_target', 'new_folder', 'write_manifest']


def check_target(folder: Path) -> None:
    """Check that a folder may be written: it is missing, empty, or an export that nothing was added to.

    Raises:
        ExistingFileError: If it holds anything else.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ExistingFileError(f'{folder} is a file, and an export is a folder; choose another name')
    found = {path.name for path in folder.iterdir()}
    try:
        own = {MANIFEST, POLICY, *(graph.file for graph in read_manifest(folder).segments)} if found else set()
    except EngineError:
        own = set()
    if found - own:
        listed = ', '.join(sorted(found - own)[:4])
        raise ExistingFileError(
            f'{folder} holds other things than an export ({listed}), which would be lost; choose a new folder, or empty this one'
        )


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside the target, which takes the target's place when all went well, and is gone when not.

    Args:
        folder: The target; an earlier export there is replaced. Folders above it are made where they are missing.

    Raises:
        ExistingFileError: If the target holds other things.
        FileError: If it cannot be written, for example since the disk is full.
    """
    folder = folder.resolve()
    check_target(folder)
    make_folders(folder.parent)
    with writing(folder, 'export', only=REFUSALS):
        partial, former = (folder.with_name(f'.{folder.name}.{os.getpid()}.{name}') for name in ('partial', 'former'))
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            check_target(folder)
            if folder.exists():
                os.rename(folder, former)
            try:
                os.rename(partial, folder)
            except OSError:
                if former.exists():
                    os.rename(former, folder)
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            if folder.exists():
                shutil.rmtree(former, ignore_errors=True)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a folder's manifest."""
    content = {'format': FORMAT, 'version': VERSION, **asdict(manifest)}
    write_json(folder / MANIFEST, content, 'manifest', allow_nan=False)
