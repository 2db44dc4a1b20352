"""A network with another number of exits than the paper's, whose segments lack what they can do without."""

from __future__ import annotations

from typing import Any

import torch
from core_models import narrow_model

from dynperceiver import DynPerceiver
from dynperceiver.models import PAPER_SEGMENTS

__all__ = ['three_exits']


def three_exits(dtype: torch.dtype = torch.float64, **changes: Any) -> tuple[DynPerceiver, DynPerceiver]:
    """Two early exits and the CNN's own, with a latent branch that reads the feature maps and never writes to them.

    Returns:
        The network; and one of the paper's four segments that shares its weights, whose first three exits are the same.
    """
    whole = narrow_model(dtype=dtype, depth_factors=(1 / 3, 1 / 3, 1 / 9, 1 / 3), z2x=False, last_z2x=False, **changes)
    assert whole.exits is not None
    exits = type(whole.exits)(whole.feature_branch.channels, whole.exits.num_classes)
    for index, exit_head in enumerate(whole.exits):
        exits[index] = exit_head
    del exits[3]
    steps = [[step for step in segment if step.operation != 'write'] for segment in PAPER_SEGMENTS[:3]]
    return DynPerceiver(whole.feature_branch, whole.latent_branch, exits, whole.num_frames, steps).eval(), whole
