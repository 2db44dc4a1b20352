"""Fingerprints of weights, to which policies and exported graphs are bound."""

from __future__ import annotations

from torch import nn

from .policies import fingerprint_of_arrays

__all__ = ['fingerprint_of_network']


def fingerprint_of_network(network: nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of a state dict; the same weights give the same on every machine.

    Args:
        network: The network as it was trained, not folded.
    """
    return fingerprint_of_arrays((name, tensor.detach().cpu().numpy()) for name, tensor in network.state_dict().items())
