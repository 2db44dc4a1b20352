"""Exposure of a clip."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform

from dynperceiver_runtime import UserError

from ..registry import TRANSFORMS

__all__ = ['ClipExposure']


@TRANSFORMS.register_module()
class ClipExposure(BaseTransform):
    """Bring dark (or bright) footage to a common exposure: one gamma curve and one gain for all frames of a clip.

    A curve of its own for every frame would make things flicker that do not move; one for the clip keeps motion as it is.

    Required key: ``imgs``, a list of uint8 frames (H, W, 3). Modified key: ``imgs``.

    Args:
        target_mean: Mean grey level to reach, between 0 and 255.
        gamma: Exponent of the curve on levels in [0, 1] before the gain; below 1 it lifts shadows.
        max_gain: Largest gain, so that noise in an almost black clip is not blown up.
        jitter: In training, a random factor on the gain between ``1 / (1 + jitter)`` and ``1 + jitter``; 0 for testing.

    Raises:
        UserError: If a number is outside its range.
    """

    def __init__(self, target_mean: float = 110.0, gamma: float = 0.6, max_gain: float = 8.0, jitter: float = 0.0) -> None:
        if not 0 < target_mean < 255:
            raise UserError(f'target_mean={target_mean}: a grey level between 0 and 255 is needed')
        if gamma <= 0 or max_gain <= 0 or jitter < 0:
            raise UserError(f'gamma={gamma}, max_gain={max_gain}, jitter={jitter}: gamma and max_gain must be positive, jitter at least 0')
        self.target_mean = target_mean
        self.gamma = gamma
        self.max_gain = max_gain
        self.jitter = jitter

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Expose the frames anew."""
        curve = 255 * (np.arange(256) / 255) ** self.gamma
        counts = np.zeros(256)
        for frame in results['imgs']:
            counts += np.bincount(frame.reshape(-1), minlength=256)
        mean = float(counts @ curve / counts.sum())
        gain = min(self.target_mean / max(mean, 1e-6), self.max_gain)
        if self.jitter:
            gain *= (1 + self.jitter) ** np.random.uniform(-1, 1)
        table = np.clip(np.rint(curve * gain), 0, 255).astype(np.uint8)
        results['imgs'] = [table[frame] for frame in results['imgs']]
        return results

    def __repr__(self) -> str:
        """The arguments, for logs."""
        return (
            f'{type(self).__name__}(target_mean={self.target_mean}, gamma={self.gamma}, max_gain={self.max_gain}, jitter={self.jitter})'
        )
