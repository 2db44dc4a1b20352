"""Motion instead of appearance."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform

from dynperceiver_runtime import UserError

from ..registry import TRANSFORMS

__all__ = ['FrameDifference']


@TRANSFORMS.register_module()
class FrameDifference(BaseTransform):
    """Replace every run of four neighbouring frames by one image of their three differences (the RGB-difference input of TSN).

    A static scene vanishes, so that few training scenes cannot be learned by heart. Sample runs by
    ``SampleFrames(clip_len=4, num_clips=T)``: T runs of 4 frames become T images. The three channels are the changes of the grey level
    from frame 1 to 2, 2 to 3 and 3 to 4, scaled by one factor for the clip and stored around 128.

    Required key: ``imgs``, a list of uint8 frames (H, W, 3), four per run. Modified keys: ``imgs`` (a list of T uint8 images (H, W, 3)) and
    ``clip_len`` (1).

    Args:
        spread: Mean absolute change, in grey levels, to scale to.
        floor: Added to the measured change before scaling, so that the noise of a clip without motion is not blown up.

    Raises:
        UserError: If a number is not positive; at run time, if the frames do not come in runs of four.
    """

    RUN = 4

    def __init__(self, spread: float = 20.0, floor: float = 2.0) -> None:
        if spread <= 0 or floor <= 0:
            raise UserError(f'spread={spread}, floor={floor}: both must be positive grey levels')
        self.spread = spread
        self.floor = floor

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Replace frames by differences."""
        frames = results['imgs']
        if not frames or len(frames) % self.RUN:
            raise UserError(
                f'{len(frames)} frames are no whole number of runs of {self.RUN}; sample them with SampleFrames(clip_len={self.RUN}, ...)'
            )
        grey = np.stack([frame.mean(-1, dtype=np.float32) for frame in frames])
        runs = grey.reshape(-1, self.RUN, *grey.shape[1:])
        changes = np.diff(runs, axis=1).transpose(0, 2, 3, 1)
        scale = self.spread / (np.abs(changes).mean() + self.floor)
        images = np.clip(np.rint(changes * scale + 128), 0, 255).astype(np.uint8)
        results['imgs'] = list(np.ascontiguousarray(images))  # OpenCV flips and warps contiguous images only
        results['clip_len'] = 1
        return results

    def __repr__(self) -> str:
        """The arguments, for logs."""
        return f'{type(self).__name__}(spread={self.spread}, floor={self.floor})'
