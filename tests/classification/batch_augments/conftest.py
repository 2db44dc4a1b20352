"""Images for the batch augmentations, and what Pillow makes of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

FILL = (124, 116, 104)
SIZE = (61, 45)  # width, height


def _noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, SIZE[1], SIZE[0], 3), dtype=np.uint8)


def _photos() -> np.ndarray:
    """Smooth regions, edges, a little noise, and not the whole range of grey levels."""
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (4, 6, 8, 3), dtype=np.uint8)
    smooth = np.stack([np.asarray(Image.fromarray(image).resize(SIZE, Image.Resampling.BICUBIC)) for image in coarse]).astype(float)
    smooth[:, 10:25, 15:40] = 40 + 30 * np.arange(4).reshape(4, 1, 1, 1)
    return np.clip(0.7 * smooth + 25 + rng.normal(0, 2, smooth.shape), 0, 255).astype(np.uint8)


@pytest.fixture(params=['noise', 'photos'])
def images_BCHW(request: pytest.FixtureRequest) -> Tensor:
    """Four images with whole grey levels, wider than high, float and channels-last."""
    return torch.from_numpy({'noise': _noise, 'photos': _photos}[request.param]()).permute(0, 3, 1, 2).float()


def _affine(image: Image.Image, matrix: tuple[float, ...], resample: int) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample, fillcolor=FILL)


def _solarize_add(image: Image.Image, addition: float) -> Image.Image:
    return image.point([min(255, level + int(addition)) if level < 128 else level for level in range(256)] * 3)


PILLOW = {
    'AutoContrast': lambda image, amount, resample: ImageOps.autocontrast(image),
    'Equalize': lambda image, amount, resample: ImageOps.equalize(image),
    'Invert': lambda image, amount, resample: ImageOps.invert(image),
    'Rotate': lambda image, amount, resample: image.rotate(amount, resample, fillcolor=FILL),
    # Recent versions of Pillow refuse 0 bits, from which older ones make a black image.
    'Posterize': lambda image, amount, resample: ImageOps.posterize(image, int(amount)) if amount else image.point([0] * 768),
    'Solarize': lambda image, amount, resample: ImageOps.solarize(image, int(amount)),
    'SolarizeAdd': lambda image, amount, resample: _solarize_add(image, amount),
    'Color': lambda image, amount, resample: ImageEnhance.Color(image).enhance(amount),
    'Contrast': lambda image, amount, resample: ImageEnhance.Contrast(image).enhance(amount),
    'Brightness': lambda image, amount, resample: ImageEnhance.Brightness(image).enhance(amount),
    'Sharpness': lambda image, amount, resample: ImageEnhance.Sharpness(image).enhance(amount),
    'ShearX': lambda image, amount, resample: _affine(image, (1, amount, 0, 0, 1, 0), resample),
    'ShearY': lambda image, amount, resample: _affine(image, (1, 0, 0, amount, 1, 0), resample),
    'TranslateX': lambda image, amount, resample: _affine(image, (1, 0, amount * image.width, 0, 1, 0), resample),
    'TranslateY': lambda image, amount, resample: _affine(image, (1, 0, 0, 0, 1, amount * image.height), resample),
}


@pytest.fixture
def pillow() -> Callable[[str, Tensor, Tensor, str], Tensor]:
    """Pillow's result of an operation (by its name) on images with an amount for each; float, (B, C, H, W)."""

    def apply(name: str, images: Tensor, amounts: Tensor, interpolation: str = 'bicubic') -> Tensor:
        arrays = images.permute(0, 2, 3, 1).to(torch.uint8).numpy()
        resample = Image.Resampling[interpolation.upper()]
        results = [PILLOW[name](Image.fromarray(array), float(amount), resample) for array, amount in zip(arrays, amounts, strict=True)]
        return torch.from_numpy(np.stack([np.asarray(result) for result in results])).permute(0, 3, 1, 2).float()

    return apply
