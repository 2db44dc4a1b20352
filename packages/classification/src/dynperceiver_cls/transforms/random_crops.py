"""Random crops and flips; chance comes from Python's ``random``, which is seeded for every sample where training must be resumable."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

from PIL import Image

from dynperceiver_runtime import UserError

from ..registry import TRANSFORMS
from .arguments import Size, resampling, size_pair

__all__ = ['RandomCrop', 'RandomFlip', 'RandomResizedCrop']


@TRANSFORMS.register_module()
class RandomResizedCrop:
    """Crop a random part of an image, of random area and aspect ratio, and resize it.

    Up to ten times, an area is drawn uniformly and a ratio log-uniformly, until a crop fits into the image; its place is uniform. If none
    fits, the crop is the largest centred one whose ratio is in range. Cropping and resizing are one step: the filter sees the
    neighbours of the crop's edge, where a crop resized afterwards would repeat its edge.

    Required and modified key: ``img``.

    Args:
        size: Height and width in pixels of the result, or one number for both.
        scale: Smallest and largest area of the crop, as parts of the image's.
        ratio: Smallest and largest ratio of the crop's width to its height.
        interpolation: See :class:`Resize`.

    Raises:
        UserError: If a size, scale or ratio is not positive or a range runs backwards; if there is no such interpolation.
    """

    ATTEMPTS = 10

    def __init__(
        self,
        size: Size,
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: str = 'bicubic',
    ) -> None:
        self.size = size_pair('size', size)
        self.scale = _range('scale', scale, '(0.08, 1.0)')
        self.ratio = _range('ratio', ratio, '(3 / 4, 4 / 3)')
        if self.scale[1] > 1:
            raise UserError(f'scale={tuple(scale)}: a crop cannot be larger than the image; end at 1.')
        self.interpolation = interpolation
        self._resampling = resampling(interpolation)

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Crop and resize the image."""
        left, top, width, height = self.sample(*results['img'].size)
        results['img'] = results['img'].resize(self.size[::-1], self._resampling, box=(left, top, left + width, top + height))
        return results

    def sample(self, image_width: int, image_height: int) -> tuple[int, int, int, int]:
        """Draw a crop.

        Args:
            image_width: In pixels.
            image_height: In pixels.

        Returns:
            Left, top, width and height in pixels.
        """
        area = image_width * image_height
        log_ratio = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(self.ATTEMPTS):
            target = area * random.uniform(*self.scale)
            aspect = math.exp(random.uniform(*log_ratio))
            width, height = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
            if 0 < width <= image_width and 0 < height <= image_height:
                return random.randint(0, image_width - width), random.randint(0, image_height - height), width, height
        aspect = min(max(image_width / image_height, self.ratio[0]), self.ratio[1])
        width, height = min(image_width, round(image_height * aspect)), min(image_height, round(image_width / aspect))
        width, height = max(width, 1), max(height, 1)
        return (image_width - width) // 2, (image_height - height) // 2, width, height

    def __repr__(self) -> str:
        """The arguments, for logs."""
        return f'{type(self).__name__}(size={self.size}, scale={self.scale}, ratio={self.ratio}, interpolation={self.interpolation!r})'


@TRANSFORMS.register_module()
class RandomCrop:
    """Crop a random part of fixed size out of an image with a border around it.

    Required and modified key: ``img``.

    Args:
        size: Height and width in pixels, or one number for both.
        padding: Width in pixels of the border that is added on all four sides first.
        fill: Colour of the border, (red, green, blue) in [0, 255], or one number for all three.

    Raises:
        UserError: If a number is out of range; at run time, if the image with its border is smaller than the crop.
    """

    def __init__(self, size: Size, padding: int = 0, fill: int | Sequence[int] = 0) -> None:
        self.size = size_pair('size', size)
        self.padding = padding
        self.fill = (fill,) * 3 if isinstance(fill, int) else tuple(fill)
        if padding < 0:
            raise UserError(f'padding={padding} must be a number of pixels of 0 or more; use CenterCrop to cut a border off.')
        if len(self.fill) != 3 or not all(isinstance(level, int) and 0 <= level <= 255 for level in self.fill):
            raise UserError(f'fill={fill!r} must be one whole number or three (red, green, blue) in [0, 255]; write fill=0 for black.')

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Crop the image."""
        image = results['img']
        height, width = self.size
        room_x, room_y = image.width + 2 * self.padding - width, image.height + 2 * self.padding - height
        if room_x < 0 or room_y < 0:
            raise UserError(
                f'an image of {image.height} x {image.width} pixels (height x width) with padding={self.padding} has no part of '
                f'{height} x {width}; resize before cropping, or raise padding.'
            )
        left, top = random.randint(0, room_x) - self.padding, random.randint(0, room_y) - self.padding
        if self.padding and self.fill != (0, 0, 0):
            results['img'] = Image.new('RGB', (width, height), self.fill)
            results['img'].paste(image, (-left, -top))
        else:
            results['img'] = image.crop((left, top, left + width, top + height))  # black where it reaches beyond the image
        return results

    def __repr__(self) -> str:
        """The arguments, for logs."""
        return f'{type(self).__name__}(size={self.size}, padding={self.padding}, fill={self.fill})'


@TRANSFORMS.register_module()
class RandomFlip:
    """Mirror an image, left and right swapped, at random.

    Required and modified key: ``img``.

    Args:
        prob: Probability.

    Raises:
        UserError: If it is not in [0, 1].
    """

    def __init__(self, prob: float = 0.5) -> None:
        if not 0 <= prob <= 1:
            raise UserError(f'prob={prob} must be a probability in [0, 1]; the recipes use 0.5.')
        self.prob = prob

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Mirror the image, or leave it."""
        if random.random() < self.prob:
            results['img'] = results['img'].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return results

    def __repr__(self) -> str:
        """The arguments, for logs."""
        return f'{type(self).__name__}(prob={self.prob})'


def _range(name: str, values: Sequence[float], example: str) -> tuple[float, float]:
    pair = tuple(values)
    if len(pair) != 2 or not 0 < pair[0] <= pair[1] < math.inf:
        raise UserError(f'{name}={pair} must be two numbers above 0, the smaller one first; the recipes use {name}={example}.')
    return pair
