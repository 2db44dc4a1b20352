"""Writes the demo data set: PNG pictures in one folder per class, a manifest and a contact sheet."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.utils import track_iter_progress
from numpy.typing import NDArray
from PIL import Image

from dynperceiver.data import is_generated, load_digits, make_folder
from dynperceiver_runtime import UserError

__all__ = ['DemoParams', 'is_complete', 'make_demo_images', 'render_digit']

# Goes up whenever the same parameters would give other pictures, so that data sets of an older version are made anew.
_FORMAT_VERSION = 1
_SPLITS = ('train', 'val')
_VAL_SHARE = 0.2
_NUM_CLASSES = 10
_INK_LEVELS = 16  # of scikit-learn's digits


@dataclass(frozen=True)
class DemoParams:
    """What the demo data set is made of; two data sets with equal parameters hold the same pictures.

    Attributes:
        seed: Seed of everything random.
        num_train: Number of training pictures; multiples of 10 give balanced classes.
        num_val: Number of held-out pictures.
        size_px: Height and width.
    """

    seed: int = 0
    num_train: int = 3000
    num_val: int = 500
    size_px: int = 64

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: If a value is out of range.
        """
        for name, low in (('seed', 0), ('num_train', _NUM_CLASSES), ('num_val', _NUM_CLASSES), ('size_px', 32)):
            if getattr(self, name) < low:
                raise UserError(f'{name}={getattr(self, name)} is too small: {name} must be at least {low}; pass {name}={low} or more.')


def render_digit(rng: np.random.Generator, ink: NDArray[np.float64], size_px: int, difficulty: float) -> Image.Image:
    """Draw a light digit on a dark, noisy ground.

    Args:
        rng: Source of position, colours and noise.
        ink: Picture of the digit from 0 to 1, shape (8, 8).
        size_px: Height and width of the result.
        difficulty: From 0 (large, upright, high contrast) to 1 (small, turned, faint, among specks).

    Returns:
        RGB picture.
    """
    height = round(size_px * (0.9 - 0.35 * difficulty * rng.random()))
    stamp = Image.fromarray((255 * ink).astype(np.uint8)).resize((height, height), Image.Resampling.BICUBIC)
    stamp = stamp.rotate((2 * rng.random() - 1) * 25 * difficulty, Image.Resampling.BICUBIC)
    mask = Image.new('L', (size_px, size_px))
    left, top = (int(rng.integers(0, size_px - height + 1)) for _ in range(2))
    mask.paste(stamp, (left, top))
    ground_C = rng.uniform(20, 80, 3)
    ink_C = ground_C + rng.uniform(0.6, 1, 3) * (170 - 120 * difficulty)
    alpha_HW1 = np.asarray(mask, np.float64)[..., None] / 255
    picture_HWC = ground_C + alpha_HW1 * (ink_C - ground_C) + rng.normal(0, 6 + 14 * difficulty, (size_px, size_px, 3))
    for _ in range(int(rng.integers(0, 1 + round(6 * difficulty)))):
        side = int(rng.integers(2, max(3, size_px // 8)))
        y, x = (int(rng.integers(0, size_px - side)) for _ in range(2))
        picture_HWC[y : y + side, x : x + side] = ink_C
    return Image.fromarray(picture_HWC.clip(0, 255).astype(np.uint8))


def make_demo_images(out_dir: str | Path, params: DemoParams | None = None, *, progress: bool = True) -> bool:
    """Make the demo data set, unless it is there already.

    The folder gets ``train/DIGIT/*.png`` and ``val/DIGIT/*.png``, ``manifest.json`` and the contact sheet ``overview.png``, whose columns
    run from easy to hard. The digits are scikit-learn's; those held out are other ones than those trained on, most of them by other hands.
    Written whole or not at all.

    Args:
        out_dir: Folder to make.
        params: What to make; None for the defaults.
        progress: Whether to show a progress bar.

    Returns:
        True if pictures were made, False if a complete data set with these parameters was there.

    Raises:
        ExistingFileError: If ``out_dir`` holds something that is not a demo data set.
    """
    params = params or DemoParams()
    return make_folder(out_dir, _identity(params), _list_images, lambda folder: _fill(folder, params, progress))


def is_complete(out_dir: str | Path, params: DemoParams) -> bool:
    """Tell whether a folder holds a complete demo data set with these parameters."""
    return is_generated(out_dir, _identity(params), _list_images)


def _identity(params: DemoParams) -> dict[str, Any]:
    return {'format_version': _FORMAT_VERSION, 'params': asdict(params)}


def _list_images(folder: Path) -> list[str]:
    params = json.loads((folder / 'manifest.json').read_text(encoding='utf-8'))['params']
    numbers = {'train': params['num_train'], 'val': params['num_val']}
    return [_file_name(split, index) for split in _SPLITS for index in range(numbers[split])] + ['overview.png']


def _file_name(split: str, index: int) -> str:
    return f'{split}/{index % _NUM_CLASSES}/{index:05d}.png'


def _fill(folder: Path, params: DemoParams, progress: bool) -> dict[str, Any]:
    digits = load_digits()
    inks_NHW, labels_N = digits.images / _INK_LEVELS, digits.target
    border = round(len(labels_N) * (1 - _VAL_SHARE))
    numbers = {'train': params.num_train, 'val': params.num_val}
    jobs = [(split, index) for split in _SPLITS for index in range(numbers[split])]
    for split in _SPLITS:
        for label in range(_NUM_CLASSES):
            (folder / split / str(label)).mkdir(parents=True)
    for split, index in track_iter_progress(jobs) if progress else jobs:
        # Each picture has a generator of its own: its content does not depend on how many others there are.
        rng = np.random.default_rng([params.seed, _SPLITS.index(split), index])
        part = slice(0, border) if split == 'train' else slice(border, None)
        choices = np.flatnonzero(labels_N[part] == index % _NUM_CLASSES) + (part.start or 0)
        picture = render_digit(rng, inks_NHW[rng.choice(choices)], params.size_px, rng.random())
        picture.save(folder / _file_name(split, index))
    _write_overview(folder / 'overview.png', inks_NHW, labels_N, params)
    versions = {name: version(name) for name in ('numpy', 'scikit-learn', 'pillow')}
    source = "scikit-learn's load_digits (UCI Optical Recognition of Handwritten Digits), on generated noise"
    return {'classes': [str(label) for label in range(_NUM_CLASSES)], 'source': source, 'versions': versions}


def _write_overview(
    path: Path, inks_NHW: NDArray[np.float64], labels_N: NDArray[np.int64], params: DemoParams, num_columns: int = 8
) -> None:
    step = params.size_px + 4
    sheet = Image.new('RGB', (num_columns * step, _NUM_CLASSES * step), 'white')
    for label in range(_NUM_CLASSES):
        for column in range(num_columns):
            rng = np.random.default_rng([params.seed, len(_SPLITS), label, column])
            ink_HW = inks_NHW[rng.choice(np.flatnonzero(labels_N == label))]
            picture = render_digit(rng, ink_HW, params.size_px, column / (num_columns - 1))
            sheet.paste(picture, (column * step + 2, label * step + 2))
    sheet.save(path)
