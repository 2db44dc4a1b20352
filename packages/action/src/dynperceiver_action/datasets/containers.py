"""Finds cut-off video files by the lengths that their containers declare, without decoding.

Decoders are no judge of this: for a file whose end is missing decord raises, returns grey or repeated frames, or ends the whole process
with a segmentation fault, depending on container, place of the cut, and whether it reads from a path or from memory.
"""

from __future__ import annotations

import os
from typing import BinaryIO

__all__ = ['find_cut']

_EBML_HEADER, _MATROSKA_SEGMENT = b'\x1a\x45\xdf\xa3', b'\x18\x53\x80\x67'
# Box types that may stand at the top of an mp4 or mov file; the first must be one of them for the file to be read as boxes.
_FIRST_BOXES = (b'ftyp', b'moov', b'mdat', b'free', b'skip', b'wide', b'pnot', b'styp')


def find_cut(path: str | os.PathLike[str]) -> str | None:
    """Tell whether a video file is shorter than its container says.

    Knows mp4, mov and their kin (boxes), avi (RIFF), and webm and mkv (EBML). Other containers, sizes left open by the writer, and bytes
    after the end are no fault.

    Args:
        path: The video file.

    Returns:
        What is missing, or None if nothing is known to be.

    Raises:
        OSError: If the file cannot be read.
    """
    num_bytes = os.path.getsize(path)
    with open(path, 'rb') as file:
        head = file.read(12)
        if head[4:8] in _FIRST_BOXES:
            return _cut_of_boxes(file, num_bytes)
        if head[:4] == b'RIFF' and head[8:12] in (b'AVI ', b'AVIX'):
            return _cut_of_part('RIFF chunk', 8 + int.from_bytes(head[4:8], 'little'), num_bytes)
        if head[:4] == _EBML_HEADER:
            return _cut_of_matroska(file, num_bytes)
    return None


def _cut_of_part(name: str, end: int, num_bytes: int) -> str | None:
    return f'its {name} should end at byte {end}, the file ends at {num_bytes}' if end > num_bytes else None


def _cut_of_boxes(file: BinaryIO, num_bytes: int) -> str | None:
    start, has_index = 0, False
    while start + 8 <= num_bytes:
        file.seek(start)
        head = file.read(16)
        size, kind = int.from_bytes(head[:4], 'big'), head[4:8]
        if size == 1:
            size = int.from_bytes(head[8:16], 'big')
        has_index |= kind == b'moov'
        if kind in (b'moov', b'mdat', b'moof'):
            cut = _cut_of_part(f'{kind.decode()} box', start + size, num_bytes)
            if cut:
                return cut
        if size < 8:
            break  # 0: up to the end of the file; others: padding or garbage after the last box
        start += size
    return None if has_index else 'its index (moov box) is missing'


def _cut_of_matroska(file: BinaryIO, num_bytes: int) -> str | None:
    file.seek(4)
    header_size = _read_ebml_size(file)
    if header_size is None:
        return None
    file.seek(header_size, os.SEEK_CUR)
    if file.read(4) != _MATROSKA_SEGMENT:
        return None if file.tell() < num_bytes else 'it ends before its Segment'
    segment_size = _read_ebml_size(file)
    return None if segment_size is None else _cut_of_part('Segment', file.tell() + segment_size, num_bytes)


def _read_ebml_size(file: BinaryIO) -> int | None:
    """Read an EBML variable-length size; None if it is open (all ones) or not there."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    num_more = 8 - first[0].bit_length()
    rest = file.read(num_more)
    value = int.from_bytes(bytes([first[0] & (0x7F >> num_more)]) + rest, 'big')
    return None if len(rest) < num_more or value == (1 << (7 * (num_more + 1))) - 1 else value
