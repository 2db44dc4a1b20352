"""Playing a clip backwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform

from dynperceiver_runtime import UserError

from ..registry import TRANSFORMS

__all__ = ['TemporalFlip']


@TRANSFORMS.register_module()
class TemporalFlip(BaseTransform):
    """Play a clip backwards with some probability, and change its label where that makes another action of it.

    What ``flip_label_map`` of mmaction2's ``Flip`` is for left and right, this is for before and after: sitting down played backwards is
    standing up, filmed in the scenes of sitting down.

    Required keys: ``imgs``, a list of frames in time order, and ``label``. Modified keys: both. Added key: ``temporal_flip``, a bool.

    Args:
        prob: Probability of playing backwards.
        label_map: Label to label; what is not in it keeps its label.

    Raises:
        UserError: If ``prob`` is no probability.
    """

    def __init__(self, prob: float = 0.5, label_map: Mapping[int, int] | None = None) -> None:
        if not 0 <= prob <= 1:
            raise UserError(f'prob={prob}: a probability between 0 and 1 is needed')
        self.prob = prob
        self.label_map = dict(label_map or {})

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Reverse the frames, or leave them."""
        results['temporal_flip'] = bool(np.random.rand() < self.prob)
        if results['temporal_flip']:
            results['imgs'] = results['imgs'][::-1]
            results['label'] = self.label_map.get(results['label'], results['label'])
        return results

    def __repr__(self) -> str:
        """The arguments, for logs."""
        return f'{type(self).__name__}(prob={self.prob}, label_map={self.label_map})'
