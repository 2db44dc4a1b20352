"""Repairs of mmcv 2.1's operators; ``dynperceiver_det`` applies them when it is imported.

1. NMS and RoIAlign have no kernels for bfloat16, so that two-stage detectors cannot train with ``AmpOptimWrapper(dtype='bfloat16')``.
   They are computed in float32 then, and RoIAlign's result goes back to bfloat16.
2. RoIAlign reads a channels-last map as if it were contiguous, and pools wrong numbers without an error. It gets a contiguous copy.

Other inputs reach the operators as they are.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import mmcv.ops
import torch
from torch import Tensor

__all__ = ['apply']

MARK = '_repaired_by_dynperceiver_det'


def apply() -> None:
    """Put the repairs in place; calling it again changes nothing."""
    nms, roi_align = sys.modules['mmcv.ops.nms'].NMSop, sys.modules['mmcv.ops.roi_align']
    if not hasattr(nms.forward, MARK):
        nms.forward = staticmethod(_nms_in_float32(nms.forward))
    if not hasattr(roi_align.roi_align, MARK):
        roi_align.roi_align = mmcv.ops.roi_align = _careful_roi_align(roi_align.roi_align)


def _nms_in_float32(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(forward)
    def wrapped(ctx: Any, bboxes: Tensor, scores: Tensor, *args: Any) -> Tensor:
        if torch.bfloat16 in (bboxes.dtype, scores.dtype):
            bboxes, scores = bboxes.float(), scores.float()
        return forward(ctx, bboxes, scores, *args)

    setattr(wrapped, MARK, True)
    return wrapped


def _careful_roi_align(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def roi_align(input: Tensor, rois: Tensor, *args: Any) -> Tensor:
        """mmcv's ``roi_align`` of (B, C, H, W) and (R, 5), in any memory format, and in float32 where bfloat16 comes in."""
        if input.dtype == torch.bfloat16:
            return function(input.float().contiguous(), rois.float(), *args).to(input.dtype)
        return function(input.contiguous(), rois, *args)

    setattr(roi_align, MARK, True)
    return roi_align
