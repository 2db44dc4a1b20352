"""Feature branches as users make them: registered in the public way, with blocks of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from core_models import fill
from torch import nn

from dynperceiver import DynPerceiver, build_model
from dynperceiver.feature_branches import FEATURE_BRANCHES, FeatureBranch, register_feature_branch

__all__ = ['CHANNELS', 'SIZE', 'own_branch', 'own_network']

CHANNELS = (8, 8, 8, 16, 16)
SIZE = (40, 48)


class _Row:
    """A row of the table of feature branches."""

    strides = (4, 4, 8, 16, 32)

    def __init__(self, name: str, block: Callable[[int], nn.Module]) -> None:
        self.name, self.block = name, block

    def build(self, width: float, temporal_shift: object, drop_path: float) -> FeatureBranch:
        """One block per stage, behind a convolution that halves the map where the stage does."""
        stages = [
            nn.Sequential(nn.Conv2d(before, after, 3, 1 if number == 0 else 2, 1), nn.ReLU(), self.block(after))
            for number, (before, after) in enumerate(pairwise(CHANNELS))
        ]
        return FeatureBranch(nn.Conv2d(3, CHANNELS[0], 7, 4, 3), stages, CHANNELS, self.strides)


@contextmanager
def own_branch(block: Callable[[int], nn.Module], name: str = 'own') -> Iterator[str]:
    """Within this context, a feature branch of such blocks has a name; a block is made of its number of channels."""
    register_feature_branch(_Row(name, block))
    try:
        yield name
    finally:
        del FEATURE_BRANCHES[name]


def own_network(block: Callable[[int], nn.Module], dtype: torch.dtype = torch.float32, **changes: Any) -> DynPerceiver:
    """A narrow network on such a branch, in eval mode, with statistics and weights that leave nothing as it came in."""
    with own_branch(block) as name:
        arguments: dict[str, Any] = dict(num_latents=8, depth_factors=(1 / 3, 1 / 3, 1 / 9, 1 / 3), num_classes=5)
        network = build_model(name, **{**arguments, **changes})
    own = network.state_dict()
    network.load_state_dict({key: value.to(own[key].dtype) for key, value in fill({key: one.shape for key, one in own.items()}).items()})
    return network.to(dtype).eval()
