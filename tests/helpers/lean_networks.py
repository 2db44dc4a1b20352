"""Networks in the lean form, narrow, with weights and statistics that leave nothing as it came in."""

from __future__ import annotations

from typing import Any

import torch
from core_models import NARROW_WIDTHS, fill

from dynperceiver import DynPerceiver, build_model

__all__ = ['LEAN', 'filled', 'lean_model']

LEAN: dict[str, Any] = dict(num_latents=5, latent_width=16, num_classes=7)


def filled(network: torch.nn.Module, scale: float = 1.0) -> None:
    """Give a network weights that depend on its names and shapes alone."""
    own = network.state_dict()
    weights = fill({key: one.shape for key, one in own.items()})
    network.load_state_dict({key: value.to(own[key].dtype) * (1 if 'running' in key else scale) for key, value in weights.items()})


def lean_model(feature_branch: Any = 'resnet18', dtype: torch.dtype = torch.float64, **changes: Any) -> DynPerceiver:
    """A lean network in eval mode."""
    if isinstance(feature_branch, str):
        changes.setdefault('width', NARROW_WIDTHS.get(feature_branch, 1.0))
    network = build_model(feature_branch, **{**LEAN, **changes})
    filled(network)
    return network.to(dtype).eval()
