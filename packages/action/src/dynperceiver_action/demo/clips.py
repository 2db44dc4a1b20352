"""Writes the demo data set: mp4 clips, annotation files, a manifest and a contact sheet."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.utils import ProgressBar
from numpy.typing import NDArray

from dynperceiver.data import is_generated, make_folder
from dynperceiver_runtime import FileError, UserError

from .motions import MOTIONS
from .render import draw_clip_spec, load_digit_images, render_clip

__all__ = ['DemoParams', 'digit_split', 'is_complete', 'make_demo_clips', 'write_overview', 'write_video']

# Goes up whenever the same parameters would give other clips, so that data sets of an older version are made anew.
_FORMAT_VERSION = 1
_SPLITS = ('train', 'val')
_VAL_SHARE = 0.2
_BAR_STEP = 20


@dataclass(frozen=True)
class DemoParams:
    """What the demo data set is made of; two data sets with equal parameters hold the same clips.

    Attributes:
        seed: Seed of everything random.
        num_train: Number of training clips; labels go round, so multiples of 8 give balanced classes.
        num_val: Number of held-out clips.
        num_frames: Frames per clip.
        size_px: Height and width of the frames; even, because the codec stores colour at half resolution.
        fps: Frames per second written into the files.
    """

    seed: int = 0
    num_train: int = 1760
    num_val: int = 240
    num_frames: int = 16
    size_px: int = 70
    fps: int = 12

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: If a value is out of range.
        """
        for name, low in (('seed', 0), ('num_train', 1), ('num_val', 1), ('num_frames', 2), ('size_px', 32), ('fps', 1)):
            if getattr(self, name) < low:
                raise UserError(f'{name}={getattr(self, name)} is too small: {name} must be at least {low}; pass {name}={low} or more.')
        if self.size_px % 2:
            raise UserError(f'size_px={self.size_px} is odd, but the video codec needs even sizes; pass size_px={self.size_px + 1}.')
        # decord takes the bytes per pixel from rows that FFmpeg pads to multiples of 32 pixels: wrong where that divides evenly.
        padded = 3 * 32 * math.ceil(self.size_px / 32)
        if padded != 3 * self.size_px and padded % self.size_px == 0:
            raise UserError(
                f'size_px={self.size_px}: decord misreads videos of this width; pass another size, say size_px={self.size_px - 2}.'
            )


def make_demo_clips(out_dir: str | Path, params: DemoParams | None = None, *, progress: bool = True) -> bool:
    """Make the demo data set, unless it is there already.

    The folder gets ``train/*.mp4`` and ``val/*.mp4``; ``train.txt`` and ``val.txt`` in the format of mmaction2's ``VideoDataset`` (file and
    label); ``classes.txt``; ``manifest.json`` with parameters and versions; and the contact sheet ``overview.png``. Everything is written
    beside the folder first and renamed at the end: an interrupted run leaves no half data set. On one machine with the same versions equal
    parameters give the same files byte for byte; elsewhere another codec build may encode the same frames differently.

    Args:
        out_dir: Folder to make.
        params: What to make; None for the defaults.
        progress: Whether to show a progress bar.

    Returns:
        True if clips were made, False if a complete data set with these parameters was there.

    Raises:
        ExistingFileError: If ``out_dir`` holds something that is not a demo data set.
        FileError: If OpenCV cannot write mp4 files.
    """
    params = params or DemoParams()
    return make_folder(out_dir, _identity(params), _list_clips, lambda folder: _fill(folder, params, progress))


def is_complete(out_dir: str | Path, params: DemoParams) -> bool:
    """Tell whether a folder holds a complete demo data set with these parameters.

    Args:
        out_dir: The folder.
        params: The parameters asked for.

    Returns:
        True if the manifest names the same parameters and every clip is there and not empty.
    """
    return is_generated(out_dir, _identity(params), _list_clips)


def digit_split(num_digits: int) -> dict[str, range]:
    """Split the digit pictures by index: the first 80 % for training, the rest held out.

    The pictures are in order of their writers, so most held-out digits are of hands that were not seen either.

    Args:
        num_digits: Number of digit pictures.

    Returns:
        Indices for ``'train'`` and ``'val'``, without overlap.
    """
    border = round(num_digits * (1 - _VAL_SHARE))
    return {'train': range(border), 'val': range(border, num_digits)}


def write_video(path: str | Path, frames_THWC: NDArray[np.uint8], fps: float) -> None:
    """Encode frames as an MPEG-4 video in an mp4 file.

    Args:
        path: File to write; its folder must exist.
        frames_THWC: RGB frames of shape (T, H, W, 3).
        fps: Frames per second.

    Raises:
        FileError: If this build of OpenCV cannot write the file.
    """
    height, width = frames_THWC.shape[1:3]
    writer = cv2.VideoWriter(os.fspath(path), cv2.VideoWriter.fourcc(*'mp4v'), float(fps), (width, height))
    if not writer.isOpened():
        raise FileError(
            f'{path}: OpenCV {cv2.__version__} cannot write mp4 (codec mp4v) here; check that the folder is writable, or install a '
            'build with FFmpeg: pip install opencv-contrib-python-headless'
        )
    try:
        for frame in frames_THWC:
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    finally:
        writer.release()


def write_overview(path: str | Path, clips: Sequence[tuple[str, NDArray[np.uint8]]], num_columns: int = 8) -> None:
    """Write a contact sheet: one row per clip, frames in order from left to right, the name in front.

    Args:
        path: PNG file to write.
        clips: Pairs of name and RGB frames of shape (T, H, W, 3), all of the same height and width.
        num_columns: Number of frames to show, spread evenly over the clip.
    """
    rows = []
    for name, frames in clips:
        picked = frames[np.linspace(0, len(frames) - 1, num_columns).round().astype(int)]
        picked = np.pad(picked, ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=255)
        label = np.full((picked.shape[1], 120, 3), 255, np.uint8)
        cv2.putText(label, name, (6, picked.shape[1] // 2 + 5), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        rows.append(np.concatenate([label, *picked], axis=1))
    sheet = cv2.cvtColor(np.concatenate(rows), cv2.COLOR_RGB2BGR)
    if not cv2.imwrite(os.fspath(path), sheet):
        raise FileError(f'{path}: cannot be written; check that the folder exists and is writable.')


def _identity(params: DemoParams) -> dict[str, Any]:
    return {'format_version': _FORMAT_VERSION, 'params': asdict(params)}


def _list_clips(folder: Path) -> list[str]:
    """Names of the clips; fewer than the manifest asks for are an error."""
    names = [line.split()[0] for split in _SPLITS for line in (folder / f'{split}.txt').read_text(encoding='utf-8').splitlines()]
    params = json.loads((folder / 'manifest.json').read_text(encoding='utf-8'))['params']
    if len(names) != params['num_train'] + params['num_val']:
        raise ValueError(f'{folder} lists {len(names)} clips')
    return names


def _fill(folder: Path, params: DemoParams, progress: bool) -> dict[str, Any]:
    images = load_digit_images()
    digits = digit_split(len(images))
    counts = {'train': params.num_train, 'val': params.num_val}
    bar = ProgressBar(sum(counts.values()), file=sys.stderr) if progress else None
    shown: list[tuple[str, NDArray[np.uint8]]] = []
    for split_index, split in enumerate(_SPLITS):
        (folder / split).mkdir()
        lines = []
        for index in range(counts[split]):
            label = index % len(MOTIONS)
            # Each clip has a generator of its own: its content does not depend on how many others there are.
            rng = np.random.default_rng([params.seed, split_index, index])
            frames = render_clip(draw_clip_spec(rng, MOTIONS[label], digits[split]), images, params.num_frames, params.size_px)
            name = f'{split}/{index:05d}.mp4'
            write_video(folder / name, frames, params.fps)
            lines.append(f'{name} {label}\n')
            if len(shown) < len(MOTIONS):
                shown.append((MOTIONS[label], frames))
            if bar and (index % _BAR_STEP == _BAR_STEP - 1 or index == counts[split] - 1):
                bar.update(index % _BAR_STEP + 1)
        (folder / f'{split}.txt').write_text(''.join(lines), encoding='utf-8')
    if bar:
        bar.file.write('\n')
    (folder / 'classes.txt').write_text('\n'.join(MOTIONS) + '\n', encoding='utf-8')
    write_overview(folder / 'overview.png', shown)
    versions = {name: version(name) for name in ('numpy', 'scikit-learn')}
    versions |= {'python': platform.python_version(), 'opencv': cv2.__version__}
    return {
        'classes': MOTIONS,
        'digits': {split: [indices.start, indices.stop] for split, indices in digits.items()},
        'source': "scikit-learn's load_digits (UCI Optical Recognition of Handwritten Digits), moving over generated noise",
        'versions': versions,
    }
