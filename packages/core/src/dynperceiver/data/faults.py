"""What can be wrong with the file of a sample."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

__all__ = ['Fault', 'Reason']


class Reason(IntEnum):
    """Why a sample cannot be used, for every task. Fits in a byte; 0 is left for samples without a fault."""

    MISSING = 1
    EMPTY = 2
    TRUNCATED = 3
    UNDECODABLE = 4
    NO_FRAMES = 5
    OTHER_SIZE = 6

    @property
    def text(self) -> str:
        """The reason in words."""
        return _TEXTS[self]


_TEXTS = {
    Reason.MISSING: 'missing',
    Reason.EMPTY: 'empty (0 bytes)',
    Reason.TRUNCATED: 'truncated',
    Reason.UNDECODABLE: 'undecodable',
    Reason.NO_FRAMES: 'without frames',
    Reason.OTHER_SIZE: 'of another size than annotated',
}


@dataclass(frozen=True)
class Fault:
    """What is wrong with a sample's file.

    Attributes:
        path: The file or folder at fault.
        reason: The kind of fault.
        detail: More about it, in words, or empty.
        remedy: What to do about it, as an imperative clause.
    """

    path: str
    reason: Reason
    detail: str = ''
    remedy: str = 'restore the file'

    def __str__(self) -> str:
        """Path, reason and detail on one line."""
        return f'{self.path}: {self.reason.text}' + (f' ({self.detail})' if self.detail else '')
