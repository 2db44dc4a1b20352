"""Opening videos by path gives mmaction2's frames, and survives files on which reading from memory does not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mmaction.datasets.transforms import DecordInit as TheirDecordInit

from dynperceiver_action.transforms import DecordInit


@pytest.mark.parametrize('name', ['whole.mp4', 'whole_web.mp4', 'whole.avi', 'whole'])
def test_frames_are_those_of_mmaction2(video_folder: Callable[..., Path], name: str) -> None:
    root = video_folder('whole.mp4', 'whole_web.mp4', 'whole.avi')
    ours, theirs = (init.transform(dict(filename=str(root / name))) for init in (DecordInit(), TheirDecordInit()))
    assert ours['total_frames'] == theirs['total_frames'] == 16
    assert ours['avg_fps'] == theirs['avg_fps']
    assert np.array_equal(*(results['video_reader'].get_batch([0, 5, 15]).asnumpy() for results in (ours, theirs)))


def test_cut_off_avi_does_not_end_the_process(video_folder: Callable[..., Path]) -> None:
    path = video_folder('cut.avi') / 'cut.avi'
    code = (
        'from dynperceiver_action.transforms import DecordInit\n'
        'try:\n'
        f'    reader = DecordInit().transform(dict(filename={str(path)!r}))["video_reader"]\n'
        '    reader.get_batch(range(len(reader)))\n'
        'except Exception as error:\n'
        '    print(type(error).__name__)\n'
    )
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, check=False).returncode == 0


def test_other_backends_are_left_to_mmaction2(video_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(TheirDecordInit, '_get_video_reader', lambda self, filename: asked.append(filename) or [])
    DecordInit(io_backend='petrel')._get_video_reader('s3://bucket/clip.mp4')
    assert asked == ['s3://bucket/clip.mp4']
