"""The pixel-wise operations of RandAugment on batches: kornia's, which agree with Pillow's to 1 grey level.

Images are float and hold the whole grey levels 0 .. 255, and so do the results; kornia computes on the unit scale. Kornia does not round
the grey image, its mean and the smoothed image that Pillow blends in, hence the 1 level. Nothing waits for the device, but with kornia 0.8,
whose equalize, posterize and sharpness run image by image.

Shape suffixes: N images of one operation, C channels (3, RGB), H height, W width. Amounts have one number per image.
"""

from __future__ import annotations

import torch
from kornia import enhance
from torch import Tensor

__all__ = [
    'auto_contrast',
    'brightness',
    'color',
    'contrast',
    'equalize',
    'invert',
    'posterize',
    'sharpness',
    'solarize',
    'solarize_add',
    'truncate',
]

WHITE = 255
SLACK = 1 / 64  # grey levels; what is whole but for the error of float arithmetic stays what it is


def truncate(levels_NCHW: Tensor) -> Tensor:
    """Whole grey levels 0 .. 255, cut off as Pillow does.

    Args:
        levels_NCHW: Any grey levels; overwritten.

    Returns:
        The argument.
    """
    return levels_NCHW.add_(SLACK).clamp_(0, WHITE).floor_()


def auto_contrast(images_NCHW: Tensor, amounts_N: Tensor) -> Tensor:
    """Stretch every channel of every image to 0 .. 255, as ``ImageOps.autocontrast``.

    Args:
        images_NCHW: Grey levels.
        amounts_N: Not used: this operation has no strength.

    Returns:
        Grey levels, (N, C, H, W).
    """
    # Kornia makes flat channels black, and Pillow leaves them; without an epsilon they come as 0 / 0.
    stretched = enhance.normalize_min_max(images_NCHW.contiguous(), 0.0, float(WHITE), eps=0.0)
    return truncate(torch.where(stretched.isnan(), images_NCHW, stretched))


def equalize(images_NCHW: Tensor, amounts_N: Tensor) -> Tensor:
    """Spread every channel's histogram evenly, as ``ImageOps.equalize``.

    Args:
        images_NCHW: Grey levels.
        amounts_N: Not used: this operation has no strength.

    Returns:
        Grey levels, (N, C, H, W).
    """
    return truncate(enhance.equalize(images_NCHW / WHITE) * WHITE)


def invert(images_NCHW: Tensor, amounts_N: Tensor) -> Tensor:
    """Negative image, as ``ImageOps.invert``.

    Args:
        images_NCHW: Grey levels.
        amounts_N: Not used: this operation has no strength.

    Returns:
        Grey levels, (N, C, H, W).
    """
    return enhance.invert(images_NCHW, images_NCHW.new_full((), WHITE))


def posterize(images_NCHW: Tensor, bits_N: Tensor) -> Tensor:
    """Keep the upper bits of every pixel, as ``ImageOps.posterize``.

    Args:
        images_NCHW: Grey levels.
        bits_N: Bits to keep, 0 .. 8; 0 gives a black image.

    Returns:
        Grey levels, (N, C, H, W).
    """
    return truncate(enhance.posterize(images_NCHW / WHITE, bits_N.long()) * WHITE)


def solarize(images_NCHW: Tensor, thresholds_N: Tensor) -> Tensor:
    """Invert the pixels at or above a threshold, as ``ImageOps.solarize``.

    Args:
        images_NCHW: Grey levels.
        thresholds_N: Thresholds, 0 .. 256, whole; 256 changes nothing.

    Returns:
        Grey levels, (N, C, H, W).
    """
    return truncate(enhance.solarize(images_NCHW / WHITE, (thresholds_N - 0.5) / WHITE) * WHITE)


def solarize_add(images_NCHW: Tensor, additions_N: Tensor) -> Tensor:
    """Brighten the pixels of the dark half: below 128 the addition is added, and the sum limited to 255.

    Kornia's solarize with an addition is another operation: it adds to all pixels and inverts.

    Args:
        images_NCHW: Grey levels.
        additions_N: Grey levels to add, at least 0, whole.

    Returns:
        Grey levels, (N, C, H, W).
    """
    brightened = (images_NCHW + additions_N.to(images_NCHW.dtype).view(-1, 1, 1, 1)).clamp_(max=WHITE)
    return torch.where(images_NCHW <= WHITE // 2, brightened, images_NCHW)


def color(images_NCHW: Tensor, factors_N: Tensor) -> Tensor:
    """Blend with the grey image, as ``ImageEnhance.Color``.

    Args:
        images_NCHW: Grey levels of RGB images.
        factors_N: 0 for the grey image, 1 for the image itself, above 1 for more colour.

    Returns:
        Grey levels, (N, C, H, W).
    """
    return truncate(enhance.adjust_saturation_with_gray_subtraction(images_NCHW / WHITE, factors_N) * WHITE)


def contrast(images_NCHW: Tensor, factors_N: Tensor) -> Tensor:
    """Blend with the mean of the grey image, as ``ImageEnhance.Contrast``.

    Args:
        images_NCHW: Grey levels of RGB images.
        factors_N: 0 for a flat image, 1 for the image itself, above 1 for more contrast.

    Returns:
        Grey levels, (N, C, H, W).
    """
    return truncate(enhance.adjust_contrast_with_mean_subtraction(images_NCHW / WHITE, factors_N) * WHITE)


def brightness(images_NCHW: Tensor, factors_N: Tensor) -> Tensor:
    """Blend with black, as ``ImageEnhance.Brightness``.

    Args:
        images_NCHW: Grey levels.
        factors_N: 0 for black, 1 for the image itself, above 1 for more brightness.

    Returns:
        Grey levels, (N, C, H, W).
    """
    return truncate(enhance.adjust_brightness_accumulative(images_NCHW / WHITE, factors_N) * WHITE)


def sharpness(images_NCHW: Tensor, factors_N: Tensor) -> Tensor:
    """Blend with the smoothed image, as ``ImageEnhance.Sharpness``; pixels at the border stay as they are.

    Args:
        images_NCHW: Grey levels.
        factors_N: 0 for the smoothed image, 1 for the image itself, above 1 for more sharpness.

    Returns:
        Grey levels, (N, C, H, W).
    """
    if min(images_NCHW.shape[2:]) < 3:  # all border, where kornia raises
        return images_NCHW.clone()
    return truncate(enhance.sharpness(images_NCHW / WHITE, factors_N.to(images_NCHW.dtype)) * WHITE)
