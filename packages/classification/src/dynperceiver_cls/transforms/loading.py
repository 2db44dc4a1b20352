"""Image files to RGB images."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from dynperceiver_runtime import UserError

from ..registry import TRANSFORMS
from .arguments import Size, size_pair

__all__ = ['LoadImage', 'decode_image']

_EXIF_ORIENTATION = 0x0112
_LYING = (5, 6, 7, 8)  # orientations that swap width and height
_REMEDY = 'save the image with 8 bits per channel'


def decode_image(file: str | BytesIO, draft_size: tuple[int, int] | None = None, apply_exif: bool = False) -> tuple[Image.Image, Any]:
    """Decode an image file completely.

    Args:
        file: Path, or the file's content.
        draft_size: Height and width in pixels of the smallest image that will do; see :class:`LoadImage`.
        apply_exif: Whether to turn photos as their EXIF orientation says.

    Returns:
        The RGB image, and height and width in pixels that it has without ``draft_size``.

    Raises:
        UserError: If its pixels are neither of 8 nor of 16 bits.
        OSError: If it cannot be decoded; decoders raise errors of other types, too.
    """
    with Image.open(file) as image:
        width, height = image.size
        if draft_size is not None:
            image.draft('RGB', draft_size[::-1])
        image.load()
        if apply_exif and image.getexif().get(_EXIF_ORIENTATION, 1) != 1:
            if image.getexif()[_EXIF_ORIENTATION] in _LYING:
                width, height = height, width
            image = ImageOps.exif_transpose(image)
        return image if image.mode == 'RGB' else _to_rgb(image), (height, width)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith('I'):  # a 16-bit greyscale image; some versions of Pillow say I, and convert() saturates at 255
        levels = np.asarray(image)
        if levels.size and (levels.min() < 0 or levels.max() > 65535):
            raise UserError(f'pixels run from {levels.min()} to {levels.max()}, but 8 or 16 bits are needed; {_REMEDY}')
        image = Image.fromarray((levels >> 8).astype(np.uint8))
    elif image.mode == 'F':
        raise UserError(f'pixels are floating point numbers, whose range no rule gives; {_REMEDY}')
    elif isinstance(image.info.get('transparency'), bytes):
        image = image.convert('RGBA')  # as Pillow asks for with a warning; the colours stay
    return image.convert('RGB')


@TRANSFORMS.register_module()
class LoadImage:
    """Decode an image file with Pillow.

    Greyscale, palette, CMYK and 16-bit images become RGB of 8 bits; an alpha channel is dropped, so that transparent pixels show the colour
    that is stored for them. Photos are *not* turned as their EXIF orientation says, as in the published recipes: their images lie as they
    were stored.

    Required key: ``img_bytes`` (content of an image file) or ``img_path``. Added keys: ``img`` (a PIL RGB image), ``ori_shape`` (height
    and width in pixels of the image in the file). ``img_bytes`` is removed.

    Args:
        draft_size: Height and width in pixels (or one number for both) that the image must at least have. The JPEG decoder then reduces
            larger images by 2, 4 or 8 as it decodes, which is faster, and changes the pixels a little. For training; other formats stay
            as they are.
        apply_exif: Whether to turn photos as their EXIF orientation says.

    Raises:
        UserError: If ``draft_size`` is not positive.
    """

    def __init__(self, draft_size: Size | None = None, apply_exif: bool = False) -> None:
        self.draft_size = None if draft_size is None else size_pair('draft_size', draft_size)
        self.apply_exif = apply_exif

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Decode the image."""
        content = results.pop('img_bytes', None)
        file = results['img_path'] if content is None else BytesIO(content)
        results['img'], results['ori_shape'] = decode_image(file, self.draft_size, self.apply_exif)
        return results

    def __repr__(self) -> str:
        """The arguments, for logs."""
        return f'{type(self).__name__}(draft_size={self.draft_size}, apply_exif={self.apply_exif})'
