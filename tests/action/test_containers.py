"""Cut-off video files are told by the lengths that their containers declare."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from dynperceiver_action.datasets.containers import find_cut


def _box(kind: bytes, content: bytes, size: int | None = None) -> bytes:
    return struct.pack('>I4s', len(content) + 8 if size is None else size, kind) + content


def _webm(size: bytes, num_bytes: int) -> bytes:
    return b'\x1a\x45\xdf\xa3\x82\x00\x00' + b'\x18\x53\x80\x67' + size + bytes(num_bytes)


@pytest.mark.parametrize(
    ('content', 'cut'),
    [
        (_box(b'ftyp', b'isom') + _box(b'mdat', bytes(50)) + _box(b'moov', bytes(20)), None),
        (_box(b'ftyp', b'isom') + _box(b'moov', bytes(20)) + _box(b'mdat', bytes(50), size=0), None),
        (_box(b'ftyp', b'isom') + _box(b'moov', bytes(20)) + _box(b'mdat', struct.pack('>Q', 66) + bytes(50), size=1), None),
        (_box(b'ftyp', b'isom') + _box(b'moov', bytes(20)) + _box(b'mdat', struct.pack('>Q', 67) + bytes(50), size=1), 'mdat box'),
        (_box(b'ftyp', b'isom') + _box(b'moov', bytes(20)) + _box(b'mdat', bytes(50)) + bytes(30), None),
        (_box(b'ftyp', b'isom') + _box(b'moov', bytes(20)) + _box(b'mdat', bytes(50), size=59), 'mdat box'),
        (_box(b'ftyp', b'isom') + _box(b'mdat', bytes(50)), '(moov box) is missing'),
        (b'RIFF' + struct.pack('<I', 24) + b'AVI ' + bytes(20), None),
        (b'RIFF' + struct.pack('<I', 25) + b'AVI ' + bytes(20), 'RIFF chunk'),
        (b'RIFF' + struct.pack('<I', 0) + b'AVI ' + bytes(20), None),
        (_webm(b'\x9e', 30), None),
        (_webm(b'\x9e', 29), 'Segment'),
        (_webm(b'\x40\x1e', 30), None),
        (_webm(b'\x40\x1e', 29), 'Segment'),
        (_webm(b'\x01\xff\xff\xff\xff\xff\xff\xff', 30), None),
        (b'something else altogether', None),
        (b'', None),
    ],
)
def test_find_cut(tmp_path: Path, content: bytes, cut: str | None) -> None:
    file = tmp_path / 'video'
    file.write_bytes(content)
    found = find_cut(file)
    if cut is None:
        assert found is None
    else:
        assert found is not None and cut in found
