"""Files written whole or not at all, and what to say of files and folders that cannot be read or written."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from .errors import ExistingFileError, FileError, MissingFileError

__all__ = ['REFUSALS', 'make_folders', 'open_atomically', 'reading', 'replacing', 'write_atomically', 'write_json', 'writing']

NAME_LENGTH = 60  # characters of a file's name in that of its temporary one, so that this is not too long where the name nearly is
REFUSALS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM})
"""Numbers of the errors by which an operating system refuses to write where all else is right: no space, no permission, a broken disk."""


@contextmanager
def writing(path: str | os.PathLike[str], what: str = 'file', only: Collection[int] | None = None) -> Iterator[None]:
    """Say of what the operating system refuses while a file or folder is written which one it is, and what to try.

    Args:
        path: The file or folder.
        what: What to call it.
        only: Numbers of the errors to speak of, for a body that does other things, too; by default all.

    Raises:
        FileError: Instead of an ``OSError`` of the body.
    """
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        if only is not None and error.errno not in only:
            raise
        raise FileError(
            f'{what} {path} cannot be written ({error.strerror or error}); choose a place that you may write to, with space left'
        ) from error


@contextmanager
def reading(path: str | os.PathLike[str], what: str = 'file') -> Iterator[None]:
    """The same for a file that is read.

    Args:
        path: The file.
        what: What to call it.

    Raises:
        MissingFileError: Instead of a ``FileNotFoundError`` of the body.
        FileError: Instead of its other kinds of ``OSError``.
    """
    try:
        yield
    except FileError:
        raise
    except FileNotFoundError as error:
        raise MissingFileError(f'{what} {path} is missing; check the path') from error
    except OSError as error:
        raise FileError(f'{what} {path} cannot be read ({error.strerror or error}); check the path and who may read it') from error


def make_folders(path: str | os.PathLike[str], what: str = 'folder') -> Path:
    """Make a folder and those that it lies in, unless they are there.

    Args:
        path: The folder.
        what: What to call it.

    Returns:
        The folder.

    Raises:
        ExistingFileError: If a file is in its place.
        FileError: If it cannot be made.
    """
    path = Path(path)
    with writing(path, what):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ExistingFileError(f'{what} {path} cannot be made, since a file is in its place; choose another name') from error
    return path


@contextmanager
def replacing(path: str | os.PathLike[str], what: str = 'file') -> Iterator[Path]:
    """A file beside a path, empty and the body's own, that takes the path's place when the body has ended, and is gone if it raises.

    No other process takes its name, and it is on the disk when it gets its new one. A link stays a link: the file that it leads to is
    replaced. A new file has the usual permissions, one that takes another's place has those.

    Args:
        path: The path; its folder exists.
        what: What to call it in messages.

    Raises:
        MissingFileError: If the folder is missing.
        ExistingFileError: If the path is that of a folder, or of a device or pipe.
        FileError: If the file cannot be written, for example since the disk is full.
    """
    target = Path(os.path.realpath(path))
    with writing(path, what):
        permissions = _check_place(path, target, what)
        partial = target.with_name(f'.{target.name[:NAME_LENGTH]}.{os.getpid()}-{secrets.token_hex(4)}.partial')
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        with writing(path, what, only=REFUSALS):
            yield partial
        with writing(path, what):
            with partial.open('rb') as file:
                os.fsync(file.fileno())
            if permissions is not None:
                partial.chmod(permissions)
            os.replace(partial, target)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


@contextmanager
def open_atomically(path: str | os.PathLike[str], mode: str = 'wb', what: str = 'file', newline: str | None = None) -> Iterator[IO[Any]]:
    """Open a file that replaces what is there when the body has ended; see :func:`replacing`.

    Args:
        path: The file; its folder exists.
        mode: ``'wb'``, or ``'w'`` for text in UTF-8.
        what: What to call it in messages.
        newline: See :func:`open`.

    Raises:
        FileError: If the file cannot be written.
    """
    with replacing(path, what) as partial, open(partial, mode, encoding=None if 'b' in mode else 'utf-8', newline=newline) as file:
        yield file


def write_atomically(path: str | os.PathLike[str], content: bytes | memoryview | str, what: str = 'file') -> None:
    """Write a file whole or not at all; see :func:`replacing`.

    Args:
        path: The file; its folder exists.
        content: Bytes, or text, which is written in UTF-8 with its line breaks as they are.
        what: What to call the file in messages.

    Raises:
        FileError: If it cannot be written.
    """
    with open_atomically(path, what=what) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: str | os.PathLike[str], content: Any, what: str = 'file', allow_nan: bool = True) -> None:
    """Write JSON that people can read, too, whole or not at all.

    Args:
        path: The file; its folder exists.
        content: What :mod:`json` takes.
        what: What to call the file in messages.
        allow_nan: Whether to write infinite numbers and NaN, which JSON does not have and Python reads all the same.

    Raises:
        FileError: If it cannot be written.
        ValueError: If such a number is in it and must not be.
    """
    write_atomically(path, json.dumps(content, indent=2, allow_nan=allow_nan, ensure_ascii=False) + '\n', what)


def _check_place(path: str | os.PathLike[str], target: Path, what: str) -> int | None:
    """Permissions of the file that is there; ``None`` where there is none."""
    if not target.parent.is_dir():
        raise MissingFileError(f'{what} {path} cannot be written: the folder {target.parent} is missing; make it first')
    try:
        there = target.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(there.st_mode):
        kind = 'a folder' if stat.S_ISDIR(there.st_mode) else 'no plain file'
        raise ExistingFileError(f'{what} {path} cannot be written: it is {kind}; choose the name of a file')
    if not os.access(target, os.W_OK):
        raise FileError(f'{what} {path} cannot be written: it is write-protected; choose another name, or take the protection off')
    return stat.S_IMODE(there.st_mode)
