"""What a user can put right: every such error has one base, and its message says what was expected and what to try."""

from __future__ import annotations

__all__ = ['ExistingFileError', 'FileError', 'MissingFileError', 'MissingPackageError', 'UsageError', 'UserError']


class UserError(ValueError):
    """An input, a file or a setting that its user can put right; command lines show the message alone, without a traceback.

    Errors of the program itself (a wrong call, a broken assumption) are of other classes, and keep their traceback. Each class of this
    kind can be made from the message alone, as MMEngine's registries and PyTorch's data loaders make them again.
    """


class FileError(UserError, OSError):
    """A file or folder that cannot be read or written."""


class MissingFileError(FileError, FileNotFoundError):
    """A file or folder that is not there."""


class ExistingFileError(FileError, FileExistsError):
    """A file or folder that is in the way of one that is to be written."""


class UsageError(UserError):
    """Something that was asked for and cannot be done so: a command line, or a setting of a config."""


class MissingPackageError(UserError, ImportError):
    """A package that is needed for what was asked, and is not installed."""
