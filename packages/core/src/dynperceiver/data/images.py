"""Says what is wrong with an image file, whatever decodes it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from .faults import Fault, Reason

__all__ = ['diagnose_image', 'first_line', 'jpeg_looks_cut']


def diagnose_image(path: str, decode: Callable[[str], object]) -> Fault | None:
    """Say what is wrong with an image file, if anything.

    Args:
        path: The image file.
        decode: Decodes the image at a path completely, and raises an exception of any type if that fails.

    Returns:
        The fault, or None if the image decodes completely.
    """
    if not os.path.isfile(path):
        return Fault(path, Reason.MISSING)
    if os.path.getsize(path) == 0:
        return Fault(path, Reason.EMPTY)
    try:
        decode(path)
    except Exception as error:  # decoders raise errors of many types
        reason = Reason.TRUNCATED if 'truncated' in str(error).lower() else Reason.UNDECODABLE
        return Fault(path, reason, first_line(error))
    return None


def jpeg_looks_cut(path: str, tail_bytes: int = 256) -> bool:
    """Tell whether a JPEG file lacks its end marker, which cheaply tells files to look at with :func:`diagnose_image`.

    Args:
        path: Image file; other formats than JPEG never look cut.
        tail_bytes: How far from the end of the file the marker may be.

    Returns:
        True if the file starts as a JPEG and has no end marker near its end.
    """
    with open(path, 'rb') as file:
        if file.read(2) != b'\xff\xd8':
            return False
        file.seek(-min(tail_bytes, os.path.getsize(path)), os.SEEK_END)
        return b'\xff\xd9' not in file.read()


def first_line(error: BaseException) -> str:
    """Type and first line of an error, short enough for a line of the log.

    Args:
        error: What a decoder raised.
    """
    text = str(error).strip()
    # decord begins with time and source line, which would make every message look different.
    text = re.sub(r'^(\[[\d:]+\] \S+:\d+: ?)+', '', text.splitlines()[0] if text else '')
    return f'{type(error).__name__}: {text[:200]}'
