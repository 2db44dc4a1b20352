"""Repairs of mmcv 2.1's operators; ``dynperceiver_det`` applies them when it is imported.

1. NMS and RoIAlign have no kernels for bfloat16, so that two-stage detectors cannot train with ``AmpOptimWrapper(dtype='bfloat16')``.
   They are computed in float32 then, and RoIAlign's result goes back to bfloat16.
2. The kernels behind the operators of :data:`READ_MEMORY` read a tensor's memory as if it were contiguous. Of channels-last maps, as our
   backbones give them, some compute wrong numbers without an error (RoIAlign, modulated deformable convolution), and others refuse them
   (deformable convolution). They get contiguous copies, in the forward and in the backward pass.

Other inputs reach the operators as they are.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any

import mmcv.ops
import torch
from torch import Tensor

__all__ = ['READ_MEMORY', 'apply']

MARK = '_repaired_by_dynperceiver_det'

READ_MEMORY = {
    'active_rotated_filter': ('ActiveRotatedFilterFunction',),
    'bezier_align': ('BezierAlignFunction',),
    'border_align': ('BorderAlignFunction',),
    'carafe': ('CARAFENaiveFunction', 'CARAFEFunction'),
    'correlation': ('CorrelationFunction',),
    'deform_conv': ('DeformConv2dFunction',),
    'deform_roi_pool': ('DeformRoIPoolFunction',),
    'focal_loss': ('SigmoidFocalLossFunction', 'SoftmaxFocalLossFunction'),
    'fused_bias_leakyrelu': ('FusedBiasLeakyReLUFunctionBackward', 'FusedBiasLeakyReLUFunction'),
    'masked_conv': ('MaskedConv2dFunction',),
    'modulated_deform_conv': ('ModulatedDeformConv2dFunction',),
    'multi_scale_deform_attn': ('MultiScaleDeformableAttnFunction',),
    'prroi_pool': ('PrRoIPoolFunction',),
    'psa_mask': ('PSAMaskFunction',),
    'riroi_align_rotated': ('RiRoIAlignRotatedFunction',),
    'roi_align': ('RoIAlignFunction',),
    'roi_align_rotated': ('RoIAlignRotatedFunction',),
    'roi_pool': ('RoIPoolFunction',),
    'rotated_feature_align': ('RotatedFeatureAlignFunction',),
    'sync_bn': ('SyncBatchNormFunction',),
    'tin_shift': ('TINShiftFunction',),
}
"""Operators on images and feature maps, as modules of ``mmcv.ops`` and their autograd functions."""


def apply() -> None:
    """Put the repairs in place; calling it again changes nothing."""
    nms, roi_align = sys.modules['mmcv.ops.nms'].NMSop, sys.modules['mmcv.ops.roi_align']
    if not hasattr(nms.forward, MARK):
        nms.forward = staticmethod(_nms_in_float32(nms.forward))
    if not hasattr(roi_align.roi_align, MARK):
        roi_align.roi_align = mmcv.ops.roi_align = _roi_align_in_float32(roi_align.roi_align)
    for module, names in READ_MEMORY.items():
        for name in names:
            function = getattr(importlib.import_module(f'mmcv.ops.{module}'), name)
            for direction in ('forward', 'backward'):
                if not hasattr(getattr(function, direction), MARK):
                    setattr(function, direction, staticmethod(_of_contiguous(getattr(function, direction))))


def _contiguous(arg: Any) -> Any:
    if not isinstance(arg, Tensor) or arg.is_contiguous():
        return arg
    # Within an autograd function nothing is recorded; some operators ask a tensor whether it needs a gradient.
    return arg.contiguous().requires_grad_(arg.requires_grad)


def _of_contiguous(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def wrapped(ctx: Any, *args: Any) -> Any:
        return method(ctx, *map(_contiguous, args))

    setattr(wrapped, MARK, True)
    return wrapped


def _nms_in_float32(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(forward)
    def wrapped(ctx: Any, bboxes: Tensor, scores: Tensor, *args: Any) -> Tensor:
        if torch.bfloat16 in (bboxes.dtype, scores.dtype):
            bboxes, scores = bboxes.float(), scores.float()
        return forward(ctx, bboxes, scores, *args)

    setattr(wrapped, MARK, True)
    return wrapped


def _roi_align_in_float32(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def roi_align(input: Tensor, rois: Tensor, *args: Any) -> Tensor:
        """mmcv's ``roi_align`` of (B, C, H, W) and (R, 5), in float32 where bfloat16 comes in."""
        if input.dtype == torch.bfloat16:
            return function(input.float(), rois.float(), *args).to(input.dtype)
        return function(input, rois, *args)

    setattr(roi_align, MARK, True)
    return roi_align
