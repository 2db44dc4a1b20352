"""The network as it is served: the same segments, with everything folded that does not depend on the input.

BatchNorm goes into the convolution or Linear beside it (see ``batch_norms.py``), the projections of an attention become one product, the
query of the learned latent code becomes a constant, and a depthwise convolution followed by average pooling becomes one strided
convolution. Only layers are exchanged: segments, exits and the loop over them stay those of
:class:`~dynperceiver.models.DynPerceiver`.

Shape suffixes: B rows, C channels, H/W feature size, N query tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..layers import (
    Attention,
    AttentionMlp,
    CrossAttentionLayer,
    FeatureToLatent,
    MapReader,
    SelfAttentionLayer,
    copy_without_hooks,
    without_global_hooks,
)
from ..layers.copies import computes_weights
from ..models import DynPerceiver
from .batch_norms import NormPlace, Trace, fold_batch_norms
from .folded_layers import FoldedCrossAttention, FoldedMapReader, FoldedReader, FoldedSelfAttention, is_plain

__all__ = ['computing', 'fold', 'fold_places', 'random_images', 'settle_weights']

Network = TypeVar('Network', bound=nn.Module)


def settle_weights(network: nn.Module) -> None:
    """Make plain parameters, in place, of weights that are computed before each run: by ``torch.nn.utils`` in both of its forms."""
    for module in list(network.modules()):
        hooks: dict[int, Any] = module._forward_pre_hooks
        for key, hook in list(hooks.items()):
            if computes_weights(hook):
                hook.remove(module)
                hooks.pop(key, None)
        if parametrize.is_parametrized(module):
            # PyTorch's own way of removing them changes the class, which a copy shares with its original.
            names = list(getattr(module, 'parametrizations', ()))
            settled = {name: getattr(module, name).detach().clone() for name in names}
            module.__class__ = type(module).__bases__[0]
            del module._modules['parametrizations']
            for name, weight in settled.items():
                module.register_parameter(name, nn.Parameter(weight, requires_grad=False))


def fold(network: Network, image_size: tuple[int, int] = (224, 224)) -> Network:
    """A copy of a network for inference only; it gives the same logits up to rounding.

    Layers that were exchanged for others, or given another ``forward``, stay as they are.

    Args:
        network: A :class:`~dynperceiver.models.DynPerceiver`, or a backbone-only baseline; it is not changed.
        image_size: Height and width of the images in pixels. The folded network takes other sizes, too, at less speed.

    Returns:
        The copy in evaluation mode, without gradients, with channels-last weights.
    """
    settled = copy_without_hooks(network).eval().requires_grad_(False)
    with computing(next(settled.parameters()).device):
        settle_weights(settled)
        with Trace(settled) as trace:
            settled(random_images(settled, image_size))
    return fold_places(settled, image_size, trace.places())[0]


def fold_places(network: Network, image_size: tuple[int, int], places: Iterable[NormPlace]) -> tuple[Network, set[str]]:
    """As :func:`fold`, for a network that was traced before.

    Args:
        network: See there.
        image_size: See there.
        places: What its trace says.

    Returns:
        The copy, and the names of layers whose outputs are others now, since they do a neighbour's work or a neighbour theirs.
    """
    folded = copy_without_hooks(network).eval().requires_grad_(False)
    with computing(next(folded.parameters()).device):
        settle_weights(folded)
        changed = fold_batch_norms(folded, places)
        if isinstance(folded, DynPerceiver):
            _fold_latent_branch(folded, image_size)
        for parameter in folded.parameters():
            if parameter.dim() == 4:  # that of a module as a whole refuses convolutions over three dimensions
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return folded.requires_grad_(False), changed


@contextmanager
def computing(device: torch.device) -> Iterator[None]:
    """A context without gradients, without hooks for all modules, and without autocast, which would round constants.

    Random numbers are the same each time, and the program's own go on undisturbed.

    Args:
        device: Where the network is.
    """
    no_gradients = torch.inference_mode(False), torch.no_grad()
    with without_global_hooks(), no_gradients[0], no_gradients[1], torch.autocast(device.type, enabled=False), torch.random.fork_rng(()):
        torch.default_generator.manual_seed(0)
        yield


def random_images(network: nn.Module, image_size: tuple[int, int], num_samples: int = 2) -> Tensor:
    """Images or frames that a network may be tried on, always the same; PyTorch's own random numbers go on undisturbed.

    Args:
        network: The network, for its device, its type and its frames per sample.
        image_size: Height and width in pixels.
        num_samples: Samples.

    Returns:
        Normally distributed numbers, shape (num_samples * frames, 3, H, W).
    """
    parameter, generator = next(network.parameters()), torch.Generator('cpu').manual_seed(0)
    shape = (num_samples * getattr(network, 'num_frames', 1), 3, *image_size)
    return torch.randn(shape, generator=generator, device='cpu', dtype=torch.float32).to(parameter.device, parameter.dtype)


def _can_fold_attention(layer: Any) -> bool:
    """Whether an attention layer has the parts and the forward passes of ours."""
    if not is_plain(layer, SelfAttentionLayer) and not is_plain(layer, CrossAttentionLayer):
        return False
    attention, mlp = layer.attention, layer.mlp
    if not (is_plain(attention, Attention) and is_plain(mlp, AttentionMlp)):
        return False
    products = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj, mlp.fc2)
    has_biases = [linear.bias is not None for linear in products if is_plain(linear, nn.Linear)]
    return has_biases == [False, False, False, True, True] and (
        isinstance(layer, CrossAttentionLayer) or attention.relative_position_bias is None
    )


def _can_fold_reader(reader: FeatureToLatent) -> bool:
    own_summary = type(reader).summarize is not FeatureToLatent.summarize or 'summarize' in vars(reader)
    return is_plain(reader, FeatureToLatent) and not own_summary


def _fold_latent_branch(network: DynPerceiver, image_size: tuple[int, int]) -> None:
    branch, trunk = network.latent_branch, network.feature_branch
    reads = [number for number, reader in enumerate(branch.x2z) if not isinstance(reader, nn.Identity)]
    for number in reads:
        reader = branch.x2z[number]
        # Where nothing came before, every sample has the same code.
        query_NC = branch.latent if number == reads[0] and not _refines_before(network, number + 1) else None
        stride = trunk.strides[number]
        size = (-(-image_size[0] // stride), -(-image_size[1] // stride))
        if not _can_fold_attention(getattr(reader, 'cross_attn', None)):
            continue
        if isinstance(reader, FeatureToLatent) and _can_fold_reader(reader):
            branch.x2z[number] = FoldedReader(reader, size, query_NC)
        elif isinstance(reader, MapReader) and is_plain(reader, MapReader):
            branch.x2z[number] = FoldedMapReader(reader, query_NC)
    for module in list(branch.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, SelfAttentionLayer) and _can_fold_attention(child):
                setattr(module, name, FoldedSelfAttention(child))
            elif isinstance(child, CrossAttentionLayer) and _can_fold_attention(child):
                setattr(module, name, FoldedCrossAttention(child))


def _refines_before(network: DynPerceiver, stage: int) -> bool:
    """Whether anything changes the latent code before it reads in this stage."""
    steps = [step for parts in network.segment_parts for step in parts.steps]
    before = steps[: next(index for index, step in enumerate(steps) if (step.operation, step.stage) == ('read', stage))]
    return any(step.operation in ('read', 'expand') for step in before)
