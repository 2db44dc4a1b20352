"""Fingerprints of weights, to which policies and exported graphs are bound."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from dynperceiver_runtime.policy.exit_policy import fingerprint_of_arrays

__all__ = ['fingerprint_of_network']


def fingerprint_of_network(network: nn.Module, parts: tuple[str, ...] = ('',)) -> str:
    """SHA-256 over names, shapes, types and bytes of a state dict; the same weights give the same on every machine.

    Args:
        network: The network as it was trained, not folded.
        parts: What the names of the tensors begin with that count; by default all do.
    """
    entries = network.state_dict().items()
    return fingerprint_of_arrays(_array(name, entry) for name, entry in entries if isinstance(entry, Tensor) and name.startswith(parts))


def _array(name: str, tensor: Tensor) -> tuple[str, np.ndarray]:
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:  # NumPy has no such type
        return f'{name}:bfloat16', tensor.view(torch.int16).numpy()
    return name, tensor.numpy()
