"""Activation checkpointing: recompute activations in the backward pass instead of keeping them (Chen et al., arXiv 1604.06174)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

__all__ = ['BlockSequence', 'call_with_cp', 'set_with_cp']


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Let norms normalise without updating their running statistics: the recomputation must not count a batch a second time."""
    norms = [child for child in module.modules() if isinstance(child, _BatchNorm) and child.training and child.track_running_stats]
    saved = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, num_batches_tracked) in zip(norms, saved, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, num_batches_tracked


def call_with_cp(module: nn.Module, *args: Tensor) -> Any:
    """Call a module and keep its input only; what it computes inside is computed again in the backward pass.

    Random numbers are drawn alike both times, and running statistics of norms count the batch once. Without gradients this is a
    plain call.

    Args:
        module: Anything whose output is worth less memory than its activations.
        args: Its arguments.
    """
    if not torch.is_grad_enabled():
        return module(*args)

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), _statistics_kept(module)

    return checkpoint(module, *args, use_reentrant=False, context_fn=contexts)


class BlockSequence(nn.Sequential):
    """Blocks in a row, like ``nn.Sequential``; with ``with_cp`` set, activations within a block are recomputed in the backward pass."""

    with_cp = False

    def forward(self, input: Tensor) -> Tensor:
        for block in self:
            input = call_with_cp(block, input) if self.with_cp else block(input)
        return input


def set_with_cp(module: nn.Module, with_cp: bool = True) -> None:
    """Switch activation checkpointing of everything in a network that knows it, block by block."""
    for child in module.modules():
        if hasattr(type(child), 'with_cp'):
            child.with_cp = with_cp  # type: ignore[assignment]
