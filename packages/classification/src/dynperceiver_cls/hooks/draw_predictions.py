"""Pictures of test images with what every exit says of them.

Shapes: H height, W width, C = 3 colours (RGB).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dynperceiver.hooks import DrawExitsHook, write_below
from dynperceiver_runtime import UserError

from ..registry import HOOKS

__all__ = ['DrawPredictionsHook', 'draw_image']


def draw_image(image_HWC: NDArray[np.uint8], lines: Sequence[str], min_px: int = 128) -> NDArray[np.uint8]:
    """Draw an image over lines of text.

    Args:
        image_HWC: Image, RGB.
        lines: Text.
        min_px: An image whose shorter side has fewer pixels is enlarged by a whole number, each pixel to a square.

    Returns:
        RGB picture of shape (H', W', 3).
    """
    factor = max(1, -(-min_px // min(image_HWC.shape[:2])))
    return write_below(image_HWC.repeat(factor, axis=0).repeat(factor, axis=1), lines)


@HOOKS.register_module()
class DrawPredictionsHook(DrawExitsHook):
    """Draw test images with their label and every exit's answer; ``--show`` and ``--show-dir`` of ``tools/test.py`` switch it on.

    The images are those that the network sees, after resize and crop.

    Args:
        enable: Whether to draw at all.
        interval: Draw every so many images of the test set.
        show: Whether to show each picture in a window.
        wait_time: Seconds that a window stays.
        out_dir: Folder for pictures, ``NUMBER_NAME.png``; None for none.
        min_px: Pixels of the shorter side up to which small images are enlarged, see :func:`draw_image`.

    Raises:
        UserError: If ``min_px`` is less than 1.
    """

    def __init__(
        self,
        enable: bool = False,
        interval: int = 1,
        show: bool = False,
        wait_time: float = 2.0,
        out_dir: str | None = None,
        min_px: int = 128,
    ) -> None:
        if min_px < 1:
            raise UserError(f'min_px={min_px}: pass the pixels that the shorter side of a picture has at least, 1 or more')
        super().__init__(enable, interval, show, wait_time, out_dir)
        self.min_px = min_px

    def names(self, sample: Any) -> tuple[str, str]:
        """Name of the image's file, or ``FILE.npz#train/17`` of an image within a file; and the same as part of a file name."""
        file, mark, inside = str(sample.get('img_path') or 'image').partition('#')
        source = PurePath(file)
        return source.name + mark + inside, re.sub(r'[^\w.-]+', '_', source.stem + mark + inside)

    def draw(self, inputs: Tensor, lines: Sequence[str]) -> NDArray[np.uint8]:
        """The image, bytes of shape (C, H, W), over the lines."""
        return draw_image(inputs.permute(1, 2, 0).cpu().numpy().astype(np.uint8), lines, self.min_px)
