"""Says what is wrong with the file of a sample, independently of the pipeline that failed on it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import numpy as np

from dynperceiver.data import Fault, Reason, diagnose_image, first_line

from .containers import find_cut

__all__ = ['diagnose_frame', 'diagnose_raw_frames', 'diagnose_video', 'quick_look', 'unique_ints']


def quick_look(path: str) -> Fault | None:
    """Look for the faults of a video file that show without decoding; takes some microseconds.

    Args:
        path: The video file.

    Returns:
        A fault if the file is missing, empty or cut off, else None.
    """
    try:
        if not os.path.isfile(path):
            return Fault(path, Reason.MISSING)
        if os.path.getsize(path) == 0:
            return Fault(path, Reason.EMPTY)
        cut = find_cut(path)
    except OSError as error:
        return Fault(path, Reason.UNDECODABLE, f'cannot be read: {error.strerror}')
    return Fault(path, Reason.TRUNCATED, cut) if cut else None


def diagnose_video(path: str, frame_inds: Iterable[int] | None = None) -> Fault | None:
    """Say what is wrong with a video file, if anything.

    Args:
        path: The video file.
        frame_inds: Frames to decode, counted from 0; None for the first and the last. Indices outside the video are left out, because
            asking for them is no fault of the file.

    Returns:
        The fault, or None if the file is there, complete, and these frames decode.

    Raises:
        ImportError: If decord is not installed.
    """
    fault = quick_look(path)
    if fault is not None:
        return fault
    import decord

    # By path, not from memory as in mmaction2's pipeline: on damaged files decord is less prone to crash that way.
    try:
        reader = decord.VideoReader(path, num_threads=1)
        num_frames = len(reader)
    except (decord.DECORDError, RuntimeError) as error:
        # What decord says of a file whose index lists no video stream or no frame.
        if 'cannot find video stream' in str(error):
            return Fault(path, Reason.NO_FRAMES, 'no video stream')
        return Fault(path, Reason.UNDECODABLE, f'decord cannot open it, {first_line(error)}')
    if num_frames == 0:
        return Fault(path, Reason.NO_FRAMES)
    wanted = [0, num_frames - 1] if frame_inds is None else [int(i) for i in frame_inds if 0 <= i < num_frames]
    try:
        reader.get_batch(wanted or [0, num_frames - 1])
    except (decord.DECORDError, RuntimeError) as error:
        return Fault(path, Reason.UNDECODABLE, first_line(error))
    return None


def diagnose_frame(path: str) -> Fault | None:
    """Say what is wrong with one frame's image file, if anything.

    Args:
        path: The image file.

    Returns:
        The fault, or None if the image decodes completely.
    """
    return diagnose_image(path, _decode)


def diagnose_raw_frames(frame_dir: str, frame_paths: Sequence[str], num_frames: int) -> Fault | None:
    """Say what is wrong with a folder of frames, if anything.

    Args:
        frame_dir: Folder of the frames.
        frame_paths: Image files of the frames that were asked for.
        num_frames: Number of frames that the annotation gives.

    Returns:
        The first fault found, or None if every one of the frames decodes.
    """
    if not os.path.isdir(frame_dir):
        return Fault(frame_dir, Reason.MISSING, 'no such folder')
    if num_frames <= 0:
        return Fault(frame_dir, Reason.NO_FRAMES, f'the annotation says total_frames={num_frames}')
    with os.scandir(frame_dir) as entries:
        if next(entries, None) is None:
            return Fault(frame_dir, Reason.NO_FRAMES, 'the folder is empty')
    return next((fault for path in frame_paths if (fault := diagnose_frame(path))), None)


def unique_ints(values: np.ndarray) -> list[int]:
    """Sorted distinct values of an integer array."""
    return [int(value) for value in np.unique(values)]


def _decode(path: str) -> None:
    from PIL import Image

    # Unlike OpenCV, some versions of which fill up what is missing with grey, Pillow refuses an image that is cut off.
    with Image.open(path) as image:
        image.load()
