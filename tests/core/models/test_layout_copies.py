"""A training step converts no feature map between memory layouts, forward or backward, on any feature branch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dynperceiver import build_model
from dynperceiver.feature_branches import FEATURE_BRANCHES
from dynperceiver.losses import MultiExitLoss

BATCH = 5  # no weight has this size in front


class LayoutCopies(TorchDispatchMode):
    """Collects the shapes of tensors that are copied into another order of strides."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if any(word in str(func) for word in ('aten.clone', 'aten.copy_', 'aten._to_copy')):
            source, target = (args[1], args[0]) if 'copy_.' in str(func) else (args[0], output)
            if source.stride() != target.stride() and source.numel() > 1:
                self.shapes.append(tuple(source.shape))
        return output

    @property
    def maps(self) -> list[tuple[int, ...]]:
        """Those that are feature maps of the batch."""
        return [shape for shape in self.shapes if len(shape) == 4 and shape[0] == BATCH]


@pytest.mark.parametrize('name', list(FEATURE_BRANCHES))
def test_training_step_copies_no_map(name: str) -> None:
    width = {'resnet': 0.125, 'mobile': 0.5, 'effici': 0.5}.get(name[:6], 1.0)
    model = build_model(name, width=width, num_latents=8, depth_factors=(1 / 3, 1 / 3, 1 / 9, 1 / 3), num_classes=3)
    images_BCHW = torch.randn(BATCH, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    with LayoutCopies() as forward:
        loss = sum(MultiExitLoss()(model(images_BCHW), torch.arange(BATCH) % 3).values())
    with LayoutCopies() as backward:
        loss.backward()
    assert forward.shapes == []
    assert backward.maps == []


def test_copies_are_found() -> None:
    """The recorder itself: the one conversion of images that come contiguous."""
    model = build_model('resnet18', width=0.125, num_latents=8, depth_factors=(1 / 3, 1 / 3, 1 / 9, 1 / 3), num_classes=3).eval()
    with LayoutCopies() as copies, torch.no_grad():
        model(torch.randn(BATCH, 3, 64, 64))
    assert copies.maps == [(BATCH, 3, 64, 64)]
