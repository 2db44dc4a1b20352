"""The Dyn-Perceiver within a model of any task: within a classifier, a recognizer, a wrapper around one, or the network itself."""

from __future__ import annotations

from torch import nn

from dynperceiver_runtime import EngineError

from .dyn_perceiver import DynPerceiver

__all__ = ['NetworkError', 'find_network', 'find_networks', 'network_with_exits']


class NetworkError(EngineError):
    """A model does not hold the network that is needed; the message says what it holds and what to pass."""


def find_networks(model: nn.Module) -> dict[str, DynPerceiver]:
    """All Dyn-Perceivers within a model by their names in it, each once; the name of the model itself is empty."""
    return {name: module for name, module in model.named_modules() if isinstance(module, DynPerceiver)}


def find_network(model: nn.Module) -> DynPerceiver | None:
    """The Dyn-Perceiver within a model, or ``None`` where there is none.

    Raises:
        NetworkError: If there are several: which of them is meant, only the caller knows.
    """
    found = find_networks(model)
    if len(found) > 1:
        raise NetworkError(f'{type(model).__name__} holds {len(found)} DynPerceivers: {", ".join(found)}; pass one of these modules alone')
    return next(iter(found.values()), None)


def network_with_exits(model: object) -> DynPerceiver:
    """The network within a model that dynamic inference can run.

    Raises:
        NetworkError: If there is none, or several, or it has no exits.
    """
    if not isinstance(model, nn.Module):
        raise NetworkError(f'model is a {type(model).__name__}; pass a DynPerceiver, or a model that holds one')
    network = find_network(model)
    if network is None:
        raise NetworkError(
            f'{type(model).__name__} holds no DynPerceiver; early exits need one as its backbone: pass a model whose backbone is of '
            'type dynperceiver.DynPerceiver'
        )
    if network.exits is None:
        raise NetworkError('the network was built without exits (num_classes=None), as detectors use it; build it with num_classes')
    return network
