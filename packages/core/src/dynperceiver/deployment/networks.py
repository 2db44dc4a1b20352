"""The network within a model that dynamic inference can run."""

from __future__ import annotations

from torch import nn

from dynperceiver_runtime.engines.base import EngineError

from ..analysis import find_network
from ..models import DynPerceiver

__all__ = ['network_with_exits']


def network_with_exits(model: object) -> DynPerceiver:
    """The network within a model that dynamic inference can run.

    Raises:
        EngineError: If there is none, or it has no exits.
    """
    if not isinstance(model, nn.Module):
        raise EngineError(f'model is a {type(model).__name__}; pass a DynPerceiver, or a model that holds one')
    network = find_network(model)
    if network is None:
        raise EngineError(f'{type(model).__name__} holds no DynPerceiver; early exits need one as its backbone')
    if network.exits is None:
        raise EngineError('the network was built without exits (num_classes=None), as detectors use it; build it with num_classes')
    return network
