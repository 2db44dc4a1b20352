"""The geometric operations of RandAugment on batches: kornia's warp, with Pillow's coordinates.

Kornia samples as PyTorch does. Its bicubic kernel has a = -0.75 where Pillow's, with -1, sharpens edges a little more; and it mixes the
fill into the outermost pixels, where Pillow decides pixel by pixel. Nothing waits for the device, but with kornia 0.8, whose inversion of
matrices does.

Images are float and hold whole grey levels, and so do the results. A matrix takes a point of the image to its place in the result, in
pixels, (0, 0) being the centre of the upper left pixel; Pillow's (0, 0) is that pixel's corner.
Shape suffixes: N images of one operation, C channels, H height, W width. Amounts have one number per image.
"""

from __future__ import annotations

import torch
from kornia.geometry import transform
from torch import Tensor

from .grey_levels import truncate

__all__ = ['INTERPOLATIONS', 'rotate', 'shear_x', 'shear_y', 'translate_x', 'translate_y']

INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic')

Rows = tuple[tuple[float, float, float], tuple[float, float, float]]


def _warp(images_NCHW: Tensor, matrices_N23: Tensor, fill_C: Tensor, interpolation: str) -> Tensor:
    height, width = images_NCHW.shape[2:]
    warped = transform.warp_affine(
        images_NCHW, matrices_N23.to(images_NCHW.dtype), (height, width), interpolation, 'fill', align_corners=True, fill_value=fill_C
    )
    return truncate(warped)


def _move(images_NCHW: Tensor, amounts_N: Tensor, rows: Rows, fill_C: Tensor, interpolation: str) -> Tensor:
    """Warp by the identity plus the amount times a matrix."""
    change_23 = torch.tensor(rows, dtype=torch.float64).to(images_NCHW.device, non_blocking=True)
    identity_23 = torch.eye(2, 3, dtype=torch.float64, device=images_NCHW.device)
    return _warp(images_NCHW, identity_23 + amounts_N.view(-1, 1, 1) * change_23, fill_C, interpolation)


def shear_x(images_NCHW: Tensor, factors_N: Tensor, fill_C: Tensor, interpolation: str) -> Tensor:
    """Shear along x from the upper edge, as ``Image.transform`` with (1, factor, 0, 0, 1, 0).

    Args:
        images_NCHW: Grey levels.
        factors_N: Pixels to the left per row.
        fill_C: Value of what comes from outside.
        interpolation: One of ``INTERPOLATIONS``.

    Returns:
        Grey levels, (N, C, H, W).
    """
    return _move(images_NCHW, factors_N, ((0, -1, -0.5), (0, 0, 0)), fill_C, interpolation)


def shear_y(images_NCHW: Tensor, factors_N: Tensor, fill_C: Tensor, interpolation: str) -> Tensor:
    """Shear along y from the left edge, as ``Image.transform`` with (1, 0, 0, factor, 1, 0).

    Args:
        images_NCHW: Grey levels.
        factors_N: Pixels upwards per column.
        fill_C: Value of what comes from outside.
        interpolation: One of ``INTERPOLATIONS``.

    Returns:
        Grey levels, (N, C, H, W).
    """
    return _move(images_NCHW, factors_N, ((0, 0, 0), (-1, 0, -0.5)), fill_C, interpolation)


def translate_x(images_NCHW: Tensor, shares_N: Tensor, fill_C: Tensor, interpolation: str) -> Tensor:
    """Move along x, as ``Image.transform`` with (1, 0, share * width, 0, 1, 0).

    Args:
        images_NCHW: Grey levels.
        shares_N: To the left, as a share of the width.
        fill_C: Value of what comes from outside.
        interpolation: One of ``INTERPOLATIONS``.

    Returns:
        Grey levels, (N, C, H, W).
    """
    return _move(images_NCHW, shares_N, ((0, 0, -images_NCHW.shape[3]), (0, 0, 0)), fill_C, interpolation)


def translate_y(images_NCHW: Tensor, shares_N: Tensor, fill_C: Tensor, interpolation: str) -> Tensor:
    """Move along y, as ``Image.transform`` with (1, 0, 0, 0, 1, share * height).

    Args:
        images_NCHW: Grey levels.
        shares_N: Upwards, as a share of the height.
        fill_C: Value of what comes from outside.
        interpolation: One of ``INTERPOLATIONS``.

    Returns:
        Grey levels, (N, C, H, W).
    """
    return _move(images_NCHW, shares_N, ((0, 0, 0), (0, 0, -images_NCHW.shape[2])), fill_C, interpolation)


def rotate(images_NCHW: Tensor, degrees_N: Tensor, fill_C: Tensor, interpolation: str) -> Tensor:
    """Turn about the centre, as ``Image.rotate``.

    Args:
        images_NCHW: Grey levels.
        degrees_N: Angles in degrees, counter-clockwise.
        fill_C: Value of what comes from outside.
        interpolation: One of ``INTERPOLATIONS``.

    Returns:
        Grey levels, (N, C, H, W).
    """
    height, width = images_NCHW.shape[2:]
    ones_N2 = degrees_N.new_ones(len(degrees_N), 2)
    centre_2 = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=ones_N2.dtype).to(ones_N2.device, non_blocking=True)
    return _warp(images_NCHW, transform.get_rotation_matrix2d(ones_N2 * centre_2, degrees_N, ones_N2), fill_C, interpolation)
