"""Repairs of mmcv's operators: bfloat16 and channels-last maps give what float32 and contiguous ones do."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmcv.ops
import pytest
import torch
from mmcv.ops import RoIAlign, batched_nms

from dynperceiver_det import compat

ROIS = torch.tensor([[0, 1.0, 2, 20, 15], [1, 3, 3, 25, 18]])
ROTATED = torch.tensor([[0, 10.0, 8, 12, 9, 0.3], [1, 12, 9, 14, 8, -0.4]])
BOXES = torch.rand(2, 20, 30, 5) * 10


@pytest.fixture
def map_BCHW() -> torch.Tensor:
    return torch.randn(2, 8, 20, 30)


def _apply(module: str, function: str, *args: Any) -> torch.Tensor:
    return getattr(importlib.import_module(f'mmcv.ops.{module}'), function).apply(*args)


WEIGHT, OFFSET, MASK = torch.randn(8, 8, 3, 3), torch.randn(2, 18, 20, 30), torch.rand(2, 9, 20, 30)
BEZIER = torch.tensor([[0, 1.0, 2, 5, 1, 9, 3, 14, 2, 2, 12, 6, 13, 10, 12, 15, 14], [1, *range(3, 19)]])
ON_CPU: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {  # what has a kernel for the CPU
    'BezierAlign': lambda x: _apply('bezier_align', 'BezierAlignFunction', x, BEZIER, (7, 7), 1.0, 2, True),
    'DeformConv2d': lambda x: _apply('deform_conv', 'DeformConv2dFunction', x, OFFSET.to(x), WEIGHT.to(x), 1, 1, 1, 1, 1, False, 32),
    'ModulatedDeformConv2d': lambda x: _apply(
        'modulated_deform_conv', 'ModulatedDeformConv2dFunction', x, OFFSET, MASK, WEIGHT, None, 1, 1, 1, 1, 1
    ),
    'PSAMask': lambda x: _apply('psa_mask', 'PSAMaskFunction', torch.cat((x, x[:, :1]), 1), 0, 3),
    'RoIAlign': lambda x: _apply('roi_align', 'RoIAlignFunction', x, ROIS, (7, 7), 1.0, 0, 'avg', True),
    'RoIAlign, maximum': lambda x: _apply('roi_align', 'RoIAlignFunction', x, ROIS, (7, 7), 1.0, 0, 'max', True),
    'RoIAlignRotated': lambda x: _apply('roi_align_rotated', 'RoIAlignRotatedFunction', x, ROTATED, (7, 7), 1.0, 2, True, False),
    'RotatedFeatureAlign': lambda x: _apply('rotated_feature_align', 'RotatedFeatureAlignFunction', x, BOXES, 1.0, 1),
}
FORMATS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    'contiguous': lambda x: x.clone(),
    'channels-last': lambda x: x.clone(memory_format=torch.channels_last),
    'transposed': lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    'part of a map': lambda x: torch.nn.functional.pad(x, (1, 2, 3, 4))[..., 3:-4, 1:-2],
    'expanded': lambda x: x[:, :1].expand(-1, 8, -1, -1),
}


@pytest.mark.parametrize('memory', FORMATS)
@pytest.mark.parametrize('name', ON_CPU)
def test_operators_take_maps_in_any_memory_format(name: str, memory: str, map_BCHW: torch.Tensor) -> None:
    given = FORMATS[memory](map_BCHW)
    plain = given.clone(memory_format=torch.contiguous_format)
    assert memory == 'contiguous' or not given.is_contiguous()
    results = []
    for x in (plain, given):
        x = x.detach().requires_grad_()
        output = ON_CPU[name](x)
        gradient = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).clone(memory_format=torch.channels_last)
        output.backward(gradient)
        results.append((output.detach(), x.grad, gradient))
    (expected, expected_gradient, _), (output, gradient, _) = results
    assert expected.std() > 0 and expected_gradient.std() > 0
    assert torch.equal(output, expected)
    assert torch.equal(gradient, expected_gradient)


class _Kernels:
    """Stands for mmcv's compiled kernels, and sees what they are given."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        def kernel(*args: Any, **settings: Any) -> None:
            self.called.append(name)
            for value in (*args, *settings.values()):
                assert not isinstance(value, torch.Tensor) or value.is_contiguous(), name

        return kernel


ON_GPU: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    'border_align': lambda x: _apply('border_align', 'BorderAlignFunction', x, torch.rand(2, 600, 4), 5),
    'carafe': lambda x: _apply('carafe', 'CARAFEFunction', x, torch.rand(2, 40, 60, 25).permute(0, 3, 1, 2).requires_grad_(), 5, 1, 2),
    'deform_roi_pool': lambda x: _apply('deform_roi_pool', 'DeformRoIPoolFunction', x, ROIS, torch.zeros(0), (7, 7), 1.0, 0, 0.1),
    'prroi_pool': lambda x: _apply('prroi_pool', 'PrRoIPoolFunction', x, ROIS.clone().requires_grad_(), (7, 7), 1.0),
    'riroi_align_rotated': lambda x: _apply('riroi_align_rotated', 'RiRoIAlignRotatedFunction', x, ROTATED, (7, 7), 1.0, 2, 8, False),
    'roi_pool': lambda x: _apply('roi_pool', 'RoIPoolFunction', x, ROIS, (7, 7), 1.0),
}


@pytest.mark.parametrize('module', ON_GPU)
def test_kernels_for_gpus_alone_get_contiguous_tensors(module: str, map_BCHW: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = _Kernels()
    monkeypatch.setattr(sys.modules[f'mmcv.ops.{module}'], 'ext_module', kernels)
    given = map_BCHW.clone(memory_format=torch.channels_last).requires_grad_()
    output = ON_GPU[module](given)
    output.backward(torch.ones_like(output).clone(memory_format=torch.channels_last))
    assert any('forward' in name for name in kernels.called) and any('backward' in name for name in kernels.called)


def test_every_operator_on_maps_is_in_the_table() -> None:
    """mmcv's others work on points, boxes and voxels."""
    others = {
        'AssignScoreWithK', 'BallQuery', 'ChamferDistanceFunction', 'FurthestPointSampling',
        'FurthestPointSamplingWithDist', 'GatherPoints', 'GroupingOperation', 'KNN', 'NMSop', 'RoIAwarePool3dFunction',
        'RoIPointPool3dFunction', 'SoftNMSop', 'SortVertices', 'SparseConvFunction', 'SparseInverseConvFunction',
        'SparseMaxPoolFunction', 'SubMConvFunction', 'ThreeInterpolate', 'ThreeNN', '_DynamicScatter', '_Voxelization',
    }  # fmt: skip
    found = set()
    for path in Path(mmcv.ops.__file__).parent.glob('*.py'):
        module = importlib.import_module(f'mmcv.ops.{path.stem}')
        found |= {
            value.__name__
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, torch.autograd.Function) and value.__module__ == module.__name__
        }
    assert found - others == {name for names in compat.READ_MEMORY.values() for name in names}


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
    def repaired() -> list[Any]:
        table = compat.READ_MEMORY.items()
        functions = [getattr(importlib.import_module(f'mmcv.ops.{module}'), name) for module, names in table for name in names]
        methods = [getattr(function, direction) for function in functions for direction in ('forward', 'backward')]
        return [mmcv.ops.roi_align, sys.modules['mmcv.ops.nms'].NMSop.forward, *methods]

    before = repaired()
    compat.apply()
    assert repaired() == before
    assert sys.modules['mmcv.ops.roi_align'].roi_align is mmcv.ops.roi_align
