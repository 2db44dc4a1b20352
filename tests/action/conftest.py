"""Small videos and frame folders, whole and broken."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

NUM_FRAMES = 16


def _frames(num_frames: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    return np.stack([np.roll(noise, 3 * i, axis=1) for i in range(num_frames)]) if num_frames else np.zeros((0, 64, 64, 3), np.uint8)


def _write(path: Path, num_frames: int = NUM_FRAMES, codec: str = 'mp4v') -> bytes:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 12.0, (64, 64))
    assert writer.isOpened()
    for frame in _frames(num_frames):
        writer.write(frame)
    writer.release()
    return path.read_bytes()


def _index_first(video: bytes) -> bytes:
    """Move the index (moov) of an mp4 file to the front, as web servers like it."""
    boxes, start = {}, 0
    while start < len(video):
        size, kind = struct.unpack('>I4s', video[start : start + 8])
        boxes[kind] = video[start : start + size]
        start += size
    index = bytearray(boxes[b'moov'])
    table = index.find(b'stco')
    count = struct.unpack('>I', index[table + 8 : table + 12])[0]
    for entry in range(table + 12, table + 12 + 4 * count, 4):
        index[entry : entry + 4] = struct.pack('>I', struct.unpack('>I', index[entry : entry + 4])[0] + len(index))
    return boxes[b'ftyp'] + bytes(index) + b''.join(box for kind, box in boxes.items() if kind not in (b'ftyp', b'moov'))


@pytest.fixture(scope='session')
def video_bytes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Whole and broken videos by name, which ends in the extension they should have."""
    folder = tmp_path_factory.mktemp('videos')
    whole = _write(folder / 'whole.mp4')
    web = _index_first(whole)
    avi = _write(folder / 'whole.avi', codec='MJPG')
    hole = bytearray(whole)
    hole[len(whole) // 5 : 4 * len(whole) // 5] = bytes(4 * len(whole) // 5 - len(whole) // 5)
    return {
        'whole.mp4': whole,
        'whole_web.mp4': web,
        'whole.avi': avi,
        'one_frame.mp4': _write(folder / 'one.mp4', num_frames=1),
        'empty.mp4': b'',
        'garbage.mp4': np.random.default_rng(0).bytes(5000),
        'page.mp4': b'<html>404 Not Found</html>',
        'no_frames.mp4': _write(folder / 'none.mp4', num_frames=0),
        'hole.mp4': bytes(hole),
        'cut.mp4': whole[: len(whole) // 2],
        'cut_late.mp4': whole[:-100],
        'cut_web_early.mp4': web[: len(web) // 20],
        'cut_web.mp4': web[: len(web) // 2],
        'cut_web_late.mp4': web[:-100],
        'cut.avi': avi[: len(avi) // 2],
        'cut_late.avi': avi[:-100],
    }


@pytest.fixture
def video_folder(tmp_path: Path, video_bytes: dict[str, bytes]) -> Callable[..., Path]:
    """Function that makes a data set of named videos: files, and a list with the labels 0, 1, ...; 'missing.mp4' is only listed."""

    def make(*names: str) -> Path:
        for name in names:
            if name in video_bytes:
                (tmp_path / name).write_bytes(video_bytes[name])
            elif not name.startswith('missing'):
                (tmp_path / name).write_bytes(video_bytes['whole.mp4'])
        (tmp_path / 'list.txt').write_text(''.join(f'{name} {label}\n' for label, name in enumerate(names)))
        return tmp_path

    return make


@pytest.fixture
def frame_folder(tmp_path: Path) -> Callable[[str], Path]:
    """Function that makes a folder of JPEG frames 00001.jpg ... below ``tmp_path``."""

    def make(name: str, num_frames: int = NUM_FRAMES) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for number, frame in enumerate(_frames(num_frames), 1):
            cv2.imwrite(str(folder / f'{number:05d}.jpg'), frame)
        return folder

    return make
