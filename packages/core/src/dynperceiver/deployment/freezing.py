"""From a network that trains to one that is served: an explicit step, taken once.

Everything later (engines, exported folders) starts from what this step made, verified and gave a fingerprint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from dynperceiver_runtime.engines.manifest import is_count

from ..analysis import count_exit_costs
from ..models import DynPerceiver, network_with_exits
from .fingerprints import fingerprint_of_network
from .folding import fold_places
from .verification import FreezeError, Reference, verify_frozen, verify_samples

__all__ = ['FreezeError', 'FrozenNetwork', 'freeze']


@dataclass(frozen=True, eq=False)
class FrozenNetwork:
    """A network for inference only, made by :func:`freeze`; engines and exports leave it as it is.

    Attributes:
        network: The copy that runs, folded unless it was asked for otherwise, in evaluation mode, without gradients and hooks.
        source: The network that it was made from. Its weights may change, which this copy does not follow; its hooks see a batch run.
        image_size: Height and width of the images in pixels.
        fingerprint: Fingerprint of the weights that it was made from, which policies are bound to.
    """

    network: DynPerceiver
    source: DynPerceiver
    image_size: tuple[int, int]
    fingerprint: str

    @cached_property
    def cost_gflops(self) -> tuple[float, ...]:
        """GFLOPs (1 MAC = 1 FLOP) of one sample that leaves at each exit, counted on the layers as they are trained."""
        return tuple(cost.cost_gmacs for cost in count_exit_costs(self.source, *self.image_size))


def freeze(network: nn.Module, image_size: Sequence[int] = (224, 224), *, folded: bool = True) -> FrozenNetwork:
    """Make the network that is served, and verify it.

    What was frozen is compared with the network on random images: the logits of all exits, in float64, layer by layer where they differ.
    It is also checked that a sample's logits do not depend on the samples around it. Hooks see nothing of this: they look on where a
    batch really runs, and what they return is no part of the network.

    Args:
        network: A :class:`~dynperceiver.models.DynPerceiver` with exits, or a model that holds one; it is not changed, and later changes
            of its weights are not seen.
        image_size: Height and width of the images in pixels.
        folded: Whether to fold; ``False`` keeps the layers as they are trained, to compare with, or where folding fails.

    Raises:
        FreezeError: If the network cannot run on such images, its logits are no finite numbers, the frozen network's differ, or a layer
            mixes the samples of a batch.
        NetworkError: If the model holds no network with exits.
    """
    source = network_with_exits(network)
    height, width = _check_size(image_size)
    parameter = source.latent_branch.latent
    if parameter.is_meta:
        raise FreezeError("the network is on the device 'meta', where weights have no values; load its weights first")
    reference = Reference(source, (height, width))
    frozen, changed = reference.network, set[str]()
    if folded:
        frozen, changed = fold_places(reference.network, (height, width), reference.places)
        verify_frozen(reference, frozen, changed)
    verify_samples(reference, frozen, changed)
    frozen = frozen.to(device=parameter.device, dtype=parameter.dtype)
    return FrozenNetwork(frozen, source, (height, width), fingerprint_of_network(source))


def _check_size(image_size: Sequence[int]) -> tuple[int, int]:
    size = tuple(image_size) if isinstance(image_size, Sequence) else (image_size,)
    if len(size) != 2 or not all(map(is_count, size)):
        raise FreezeError(f'image_size={image_size!r}: pass height and width in pixels, two whole numbers of 1 or more')
    return int(size[0]), int(size[1])
