"""Arguments that several transforms take."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from dynperceiver_runtime import UserError

__all__ = ['Size', 'resampling', 'size_pair']

Size = int | Sequence[int]

_RESAMPLING = {
    'nearest': Image.Resampling.NEAREST,
    'bilinear': Image.Resampling.BILINEAR,
    'bicubic': Image.Resampling.BICUBIC,
    'lanczos': Image.Resampling.LANCZOS,
}


def size_pair(name: str, size: Size) -> tuple[int, int]:
    """Read a size in pixels.

    Args:
        name: The argument's name, for the message.
        size: Height and width, or one number for both.

    Returns:
        Height and width.

    Raises:
        UserError: If it is something else.
    """
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise UserError(f'{name}={size!r} must be a number of pixels above 0, or a pair (height, width) of them; write {name}=224, say.')
    return pair


def resampling(interpolation: str) -> Image.Resampling:
    """Look up a filter of Pillow.

    Args:
        interpolation: Its name.

    Raises:
        UserError: If there is none of that name.
    """
    if interpolation not in _RESAMPLING:
        raise UserError(f"interpolation={interpolation!r} must be one of {', '.join(_RESAMPLING)}; the recipes use 'bicubic'.")
    return _RESAMPLING[interpolation]
