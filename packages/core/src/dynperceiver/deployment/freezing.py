"""From a network that trains to one that is served: an explicit step, taken once."""

from __future__ import annotations

from dataclasses import dataclass

from ..models import DynPerceiver
from .fingerprints import fingerprint_of_network
from .folding import copy_without_hooks, fold

__all__ = ['FrozenNetwork', 'freeze']


@dataclass(frozen=True, eq=False)
class FrozenNetwork:
    """A network for inference only, made by :func:`freeze`.

    Attributes:
        network: The copy that runs, folded unless it was asked for otherwise, in evaluation mode, without gradients.
        source: The network that it was made from.
        image_size: Height and width of the images in pixels.
        fingerprint: Fingerprint of the weights that it was made from, which policies are bound to.
    """

    network: DynPerceiver
    source: DynPerceiver
    image_size: tuple[int, int]
    fingerprint: str


def freeze(network: DynPerceiver, image_size: tuple[int, int] = (224, 224), *, folded: bool = True) -> FrozenNetwork:
    """Make the network that is served.

    Args:
        network: The network with exits; it is not changed, and later changes of its weights are not seen.
        image_size: Height and width of the images in pixels.
        folded: Whether to fold; ``False`` keeps the layers as they are trained, to compare with.
    """
    copied = fold(network, image_size) if folded else copy_without_hooks(network).eval().requires_grad_(False)
    return FrozenNetwork(copied, network, image_size, fingerprint_of_network(network))
