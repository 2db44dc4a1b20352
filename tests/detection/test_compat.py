"""Repairs of mmcv's operators: bfloat16 and channels-last maps give what float32 and contiguous ones do."""

from __future__ import annotations

import sys

import mmcv.ops
import pytest
import torch
from mmcv.ops import RoIAlign, batched_nms

from dynperceiver_det import compat

ROIS = torch.tensor([[0, 1.0, 2, 20, 15], [1, 3, 3, 25, 18]])


@pytest.fixture
def map_BCHW() -> torch.Tensor:
    return torch.randn(2, 8, 20, 30)


@pytest.mark.parametrize('channels_last', [False, True])
def test_roi_align_takes_any_memory_format(map_BCHW: torch.Tensor, channels_last: bool) -> None:
    pool = RoIAlign(7, 1.0, 0)
    original = sys.modules['mmcv.ops.roi_align'].RoIAlignFunction.apply
    plain = map_BCHW.clone().requires_grad_()
    given = map_BCHW.clone(memory_format=torch.channels_last if channels_last else torch.contiguous_format).requires_grad_()
    expected, pooled = original(plain, ROIS, (7, 7), 1.0, 0, 'avg', True), pool(given, ROIS)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=0)
    gradient = torch.randn_like(expected)
    expected.backward(gradient)
    pooled.backward(gradient)
    torch.testing.assert_close(given.grad, plain.grad, rtol=0, atol=0)


def test_roi_align_pools_bfloat16(map_BCHW: torch.Tensor) -> None:
    given = map_BCHW.bfloat16().requires_grad_()
    pooled = RoIAlign(7, 1.0, 0)(given, ROIS.bfloat16())
    assert pooled.dtype == torch.bfloat16
    torch.testing.assert_close(pooled.float(), RoIAlign(7, 1.0, 0)(map_BCHW, ROIS), rtol=0.02, atol=0.02)
    pooled.sum().backward()
    assert given.grad is not None and given.grad.dtype == torch.bfloat16 and bool(given.grad.any())


def test_nms_keeps_the_same_boxes_in_bfloat16() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [40, 40, 60, 60]])
    scores = torch.tensor([0.5, 0.75, 0.25])
    for give_boxes, give_scores in ((boxes, scores), (boxes, scores.bfloat16()), (boxes.bfloat16(), scores.bfloat16())):
        _, kept = batched_nms(give_boxes, give_scores, torch.zeros(3, dtype=torch.long), dict(type='nms', iou_threshold=0.5))
        assert kept.tolist() == [1, 2]


def test_repairs_are_applied_once() -> None:
    before = mmcv.ops.roi_align, sys.modules['mmcv.ops.nms'].NMSop.forward
    compat.apply()
    assert (mmcv.ops.roi_align, sys.modules['mmcv.ops.nms'].NMSop.forward) == before
    assert sys.modules['mmcv.ops.roi_align'].roi_align is mmcv.ops.roi_align
