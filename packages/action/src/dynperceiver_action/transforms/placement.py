"""Random size and place of a clip's picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from dynperceiver_runtime import UserError

from ..registry import TRANSFORMS

__all__ = ['RandomPlacement']


@TRANSFORMS.register_module()
class RandomPlacement(BaseTransform):
    """Draw a size and a place for the picture on a canvas; the same for all frames, so that motion stays what it is.

    Unlike a crop it also makes the subject smaller and moves it to where it never was.

    Required key: ``imgs``, a list of uint8 frames (H, W, 3). Modified keys: ``imgs`` and ``img_shape``.

    Args:
        size: Height and width of the canvas in pixels.
        scales: Smallest and largest size of the picture, as a share of the canvas; above 1 a part of it is cut off.
        stretch: Height and width vary further, each by a factor between ``1 - stretch`` and ``1 + stretch``.
        fill: Grey level around the picture.

    Raises:
        UserError: If a number is outside its range.
    """

    def __init__(self, size: Sequence[int], scales: Sequence[float] = (0.55, 1.25), stretch: float = 0.15, fill: int = 128) -> None:
        if len(size) != 2 or min(size) < 1:
            raise UserError(f'size={tuple(size)}: height and width of at least 1 pixel are needed')
        if len(scales) != 2 or not 0 < scales[0] <= scales[1]:
            raise UserError(f'scales={tuple(scales)}: a smallest and a largest positive factor are needed')
        if not 0 <= stretch < 1 or not 0 <= fill <= 255:
            raise UserError(f'stretch={stretch}, fill={fill}: stretch must be in [0, 1) and fill in [0, 255]')
        self.size = tuple(size)
        self.scales = tuple(scales)
        self.stretch = stretch
        self.fill = fill

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Place the frames."""
        height, width = self.size
        source_height, source_width = results['imgs'][0].shape[:2]
        share_y, share_x = np.random.uniform(*self.scales) * np.random.uniform(1 - self.stretch, 1 + self.stretch, 2)
        left, top = np.random.uniform(0, 1, 2) * (width * (1 - share_x), height * (1 - share_y))
        matrix = np.array([[share_x * width / source_width, 0, left], [0, share_y * height / source_height, top]])
        around = (self.fill,) * 3
        results['imgs'] = [cv2.warpAffine(frame, matrix, (width, height), borderValue=around) for frame in results['imgs']]
        results['img_shape'] = (height, width)
        return results

    def __repr__(self) -> str:
        """The arguments, for logs."""
        return f'{type(self).__name__}(size={self.size}, scales={self.scales}, stretch={self.stretch}, fill={self.fill})'
