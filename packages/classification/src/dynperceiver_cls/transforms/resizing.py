"""Resizing and cropping that leave nothing to chance."""

from __future__ import annotations

from typing import Any

from dynperceiver_runtime import UserError

from ..registry import TRANSFORMS
from .arguments import Size, resampling, size_pair

__all__ = ['CenterCrop', 'Resize']


@TRANSFORMS.register_module()
class Resize:
    """Resize an image to a size, or until its shorter edge has a length.

    Pillow's filters widen when they reduce an image, so that nothing aliases.

    Required and modified key: ``img``.

    Args:
        size: Height and width in pixels, or one number for both. The aspect ratio is not kept.
        short_edge: Length of the shorter edge in pixels. The other one follows by the aspect ratio, rounded down.
        interpolation: ``'nearest'``, ``'bilinear'``, ``'bicubic'`` or ``'lanczos'``.

    Raises:
        UserError: Unless exactly one of ``size`` and ``short_edge`` is given, and positive; if there is no such interpolation.
    """

    def __init__(self, size: Size | None = None, short_edge: int | None = None, interpolation: str = 'bicubic') -> None:
        if (size is None) == (short_edge is None):
            raise UserError(
                f'size={size!r}, short_edge={short_edge!r}: give exactly one; size=(height, width) does not keep the aspect ratio, '
                'short_edge=256 does.'
            )
        self.size = None if size is None else size_pair('size', size)
        self.short_edge = None if short_edge is None else size_pair('short_edge', short_edge)[0]
        self.interpolation = interpolation
        self._resampling = resampling(interpolation)

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Resize the image."""
        image = results['img']
        if self.short_edge is not None:
            short = min(image.size)
            target = tuple(self.short_edge if side == short else int(self.short_edge * side / short) for side in image.size)
        else:
            target = self.size[::-1]
        if target != image.size:
            results['img'] = image.resize(target, self._resampling)
        return results

    def __repr__(self) -> str:
        """The arguments, for logs."""
        return f'{type(self).__name__}(size={self.size}, short_edge={self.short_edge}, interpolation={self.interpolation!r})'


@TRANSFORMS.register_module()
class CenterCrop:
    """Crop an image's centre.

    Required and modified key: ``img``.

    Args:
        size: Height and width in pixels, or one number for both.

    Raises:
        UserError: If it is not positive; at run time, if the image is smaller.
    """

    def __init__(self, size: Size) -> None:
        self.size = size_pair('size', size)

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Crop the image."""
        image = results['img']
        height, width = self.size
        if height > image.height or width > image.width:
            raise UserError(
                f'an image of {image.height} x {image.width} pixels (height x width) has no centre of {height} x {width}; resize before '
                f'cropping, for example by Resize(short_edge={max(self.size)}).'
            )
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        results['img'] = image.crop((left, top, left + width, top + height))
        return results

    def __repr__(self) -> str:
        """The arguments, for logs."""
        return f'{type(self).__name__}(size={self.size})'
