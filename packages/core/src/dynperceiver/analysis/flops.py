"""Cost from counting traced operators: 1 multiply-accumulate (MAC) is 1 FLOP, as in the paper.

Convolutions and matrix products count, attention's included; norms, biases, activations and pooling do not.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..layers import copy_without_hooks, without_global_hooks
from ..models import DynPerceiver

__all__ = ['ExitCost', 'count_exit_costs', 'count_gmacs', 'meta_copy']


def meta_copy(model: nn.Module) -> nn.Module:
    """Copy of a model whose tensors have shapes but no memory: tracing it computes nothing, and attention decomposes into products.

    It has no hooks: they expect numbers.
    """

    def shape_only(tensor: Tensor) -> Tensor:
        empty = torch.empty_like(tensor.detach(), device='meta')
        return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty

    return copy_without_hooks(model, shape_only).to('meta').eval()


def count_gmacs(function: Callable[..., Any], *args: Any) -> float:
    """Giga-MACs of a call.

    Args:
        function: Anything callable; with modules of :func:`meta_copy` nothing is computed.
        args: Its arguments, on the same device.
    """
    with warnings.catch_warnings(), torch.no_grad(), without_global_hooks():
        warnings.simplefilter('ignore')
        with FlopCounterMode(display=False) as counter:
            function(*args)
    return float(counter.get_total_flops()) / 2e9


@dataclass(frozen=True)
class ExitCost:
    """What it takes to leave at an exit.

    Attributes:
        number: The exit's number, from 1.
        cost_gmacs: Giga-MACs per sample from the input up to and with this exit; a sample of video is a clip.
        segment_gmacs: The last segment's share of it.
        num_params: Parameters used up to and with this exit.
    """

    number: int
    cost_gmacs: float
    segment_gmacs: float
    num_params: int


def _segment_params(model: DynPerceiver) -> list[set[str]]:
    """Names of the parameters that each segment uses."""
    names = [name for name, _ in model.named_parameters()]
    return [
        {name for name in names if any(name == module or name.startswith(f'{module}.') for module in parts.modules)}
        for parts in model.segment_parts
    ]


def count_exit_costs(model: DynPerceiver, height: int = 224, width: int = 224) -> list[ExitCost]:
    """Cost of each exit for one sample (an image, or a clip of ``model.num_frames`` frames).

    A network without exits gives the cost of its segments.

    Args:
        model: The network; it is copied, and neither run nor changed.
        height: Image height in pixels.
        width: Image width in pixels.
    """
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    shadow = meta_copy(model)
    assert isinstance(shadow, DynPerceiver)
    images_BCHW = shadow.latent_branch.latent.new_empty(shadow.num_frames, 3, height, width)
    state = shadow.start(images_BCHW, collect_pyramid=shadow.exits is None)
    costs, total_gmacs, total_params = [], 0.0, 0
    for number, (segment, names) in enumerate(zip(shadow.segments, _segment_params(model), strict=True), 1):
        result: list[Any] = []
        segment_gmacs = count_gmacs(lambda step=segment, given=state, kept=result: kept.append(step(given)))
        state = result[0][1]
        total_gmacs += segment_gmacs
        total_params += sum(sizes[name] for name in names)
        costs.append(ExitCost(number, total_gmacs, segment_gmacs, total_params))
    return costs
