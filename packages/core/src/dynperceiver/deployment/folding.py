"""The network as it is served: the same segments, with everything folded that does not depend on the input.

BatchNorm goes into the convolution or Linear beside it (see ``batch_norms.py``), the projections of an attention become one product, the
query of the learned latent code becomes a constant, and a depthwise convolution followed by average pooling becomes one strided
convolution. Only layers are exchanged: segments, exits and the loop over them stay those of
:class:`~dynperceiver.models.DynPerceiver`.

Shape suffixes: B rows, C channels, H/W feature size, N query tokens, M key/value tokens, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard, TypeVar

import torch
import torch.nn.functional as F
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
    tokens_from_map,
    without_global_hooks,
)
from ..layers.copies import computes_weights
from ..models import DynPerceiver
from .batch_norms import NormPlace, Trace, fold_batch_norms

__all__ = [
    'FoldedCrossAttention',
    'FoldedMapReader',
    'FoldedReader',
    'FoldedSelfAttention',
    'add_linear',
    'attend',
    'computing',
    'fold',
    'fold_places',
    'random_images',
    'settle_weights',
]

Network = TypeVar('Network', bound=nn.Module)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention whose scale is part of the query's weights; (..., N, D), (..., M, D), (..., M, D) to (..., N, D).

    PyTorch's fused kernel, or while exporting the three operators it stands for, which need no shape arithmetic.
    """
    if torch.compiler.is_exporting():
        return torch.softmax(query @ key.transpose(-1, -2), -1) @ value
    if query.dim() == 3:
        return F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None], scale=1.0)[:, 0]
    return F.scaled_dot_product_attention(query, key, value, scale=1.0)


def add_linear(tokens_BNC: Tensor, hidden_BND: Tensor, linear: nn.Linear, in_place: bool = False) -> Tensor:
    """``tokens + linear(hidden)`` with the sum taken within the matrix product, so that the tokens are read and written once.

    Args:
        tokens_BNC: The residual.
        hidden_BND: Input of the Linear.
        linear: A Linear with bias.
        in_place: Whether the tokens may be overwritten.
    """
    if torch.compiler.is_exporting():
        return tokens_BNC + linear(hidden_BND)
    tokens, hidden, weight = tokens_BNC.reshape(-1, linear.out_features), hidden_BND.reshape(-1, linear.in_features), linear.weight.t()
    total = tokens.addmm_(hidden, weight) if in_place else torch.addmm(tokens, hidden, weight)
    return total.add_(linear.bias).view(hidden_BND.shape[0], -1, linear.out_features)


def _refine(attended_BNC: Tensor, mlp: AttentionMlp) -> Tensor:
    """The MLP with its residual, which nobody else holds."""
    hidden = F.gelu(mlp.fc1(mlp.layernorm(attended_BNC)))
    return add_linear(attended_BNC, hidden, mlp.fc2, in_place=True)


def _product(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device=weight.device, dtype=weight.dtype)
    linear.weight.data = weight.detach().clone()
    if bias is not None:
        linear.bias.data = bias.detach().clone()
    return linear


def _scaled_query(attention: Attention) -> Tensor:
    head_channels = attention.q_proj.out_features // attention.num_heads
    return attention.q_proj.weight.detach() * head_channels**-0.5


class FoldedSelfAttention(nn.Module):
    """A :class:`~dynperceiver.layers.SelfAttentionLayer` with one product for query, key and value.

    Args:
        layer: The trained layer.
    """

    def __init__(self, layer: SelfAttentionLayer) -> None:
        super().__init__()
        attention = layer.attention
        self.num_heads = attention.num_heads
        self.norm = layer.norm
        self.qkv_proj = _product(torch.cat((_scaled_query(attention), attention.k_proj.weight, attention.v_proj.weight)))
        self.o_proj = attention.o_proj
        self.mlp = layer.mlp

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        """Refine tokens of shape (B, N, C)."""
        qkv = self.qkv_proj(self.norm(tokens_BNC))
        if self.num_heads == 1:
            mixed = attend(*qkv.chunk(3, 2))
        else:
            num_tokens, channels = tokens_BNC.shape[1:]
            heads = qkv.reshape(-1, num_tokens, 3 * self.num_heads, channels // self.num_heads).transpose(1, 2)
            mixed = attend(*heads.chunk(3, 1)).transpose(1, 2).reshape(-1, num_tokens, channels)
        return _refine(add_linear(tokens_BNC, mixed, self.o_proj), self.mlp)


class FoldedCrossAttention(nn.Module):
    """A :class:`~dynperceiver.layers.CrossAttentionLayer` with one product for key and value.

    Args:
        layer: The trained layer.
        query_NC: A query that is the same for every input, shape (N, C): its projection is computed here, once.
    """

    query_1ND: Tensor | None

    def __init__(self, layer: CrossAttentionLayer, query_NC: Tensor | None = None) -> None:
        super().__init__()
        attention = layer.attention
        q_proj = _product(_scaled_query(attention))
        self.num_heads = attention.num_heads
        self.kv_norm = layer.kv_norm
        self.kv_proj = _product(torch.cat((attention.k_proj.weight, attention.v_proj.weight)))
        position = attention.relative_position_bias
        self.register_buffer('position_1MC', None if position is None else self.of_keys(position.detach()))
        self.o_proj = attention.o_proj
        self.mlp = layer.mlp
        if query_NC is None:
            self.q_norm, self.q_proj = layer.q_norm, q_proj
            self.register_buffer('query_1ND', None)
        else:
            self.register_buffer('query_1ND', q_proj(layer.q_norm(query_NC))[None].detach())

    @staticmethod
    def of_keys(position_1MC: Tensor) -> Tensor:
        """Positions as they are added to keys and values in one: shape (1, M, 2 C), nothing for the values."""
        return F.pad(position_1MC, (0, position_1MC.shape[2]))

    def forward(self, query_BNC: Tensor, kv_BMC: Tensor, position_1MC: Tensor | None = None) -> Tensor:
        """Refine (B, N, query_channels) by (B, M, kv_channels); returns the query's shape.

        Args:
            query_BNC: The query.
            kv_BMC: Keys and values.
            position_1MC: In the place of the positions that it was made with, see :meth:`of_keys`.
        """
        key_value = self.kv_proj(self.kv_norm(kv_BMC))
        position_1MC = self.position_1MC if position_1MC is None else position_1MC
        if position_1MC is not None:
            key_value = key_value + position_1MC
        query = self.q_proj(self.q_norm(query_BNC)) if self.query_1ND is None else self.query_1ND
        if self.query_1ND is not None and not torch.compiler.is_exporting():
            query = query.expand(key_value.shape[0], -1, -1)
        if self.num_heads == 1:
            mixed = attend(query, *key_value.chunk(2, 2))
        else:
            heads = key_value.unflatten(2, (2 * self.num_heads, -1)).transpose(1, 2)
            mixed = attend(query.unflatten(2, (self.num_heads, -1)).transpose(1, 2), *heads.chunk(2, 1)).transpose(1, 2).flatten(2)
        return _refine(add_linear(query_BNC, mixed, self.o_proj), self.mlp)


class FoldedReader(nn.Module):
    """A :class:`~dynperceiver.layers.FeatureToLatent` whose summary is one strided depthwise convolution.

    The mean of a stride-1 convolution over windows of h x w pixels is a convolution with stride (h, w) and a kernel that is the mean of
    its shifted copies; the identity beside it adds 1 to the centre of the kernel. Maps of another size than the one it was made for, and
    of sides that the summary does not divide, are summarised as in training.

    Args:
        reader: The trained layer.
        size: Height and width of the feature map.
        query_NC: See :class:`FoldedCrossAttention`.
    """

    def __init__(self, reader: FeatureToLatent, size: tuple[int, int], query_NC: Tensor | None = None) -> None:
        super().__init__()
        self.reader = [reader]  # in a list, so that its attention is no part of this module
        self.dwc = reader.dwc
        self.size = torch.Size(size)
        self.cross_attn = FoldedCrossAttention(reader.cross_attn, query_NC)
        self.conv: nn.Conv2d | None = None
        if _can_pool(reader.dwc) and not any(side % reader.summary_size for side in size):
            self.conv = _pooled_convolution(reader.dwc, (size[0] // reader.summary_size, size[1] // reader.summary_size))

    def forward(self, latent_BNC: Tensor, feature_BCHW: Tensor) -> Tensor:
        """Refine the latent code (B, N, C) by the feature map (B, C', H, W); returns (B, N, C)."""
        if self.conv is not None and feature_BCHW.shape[2:] == self.size:
            summary_BCHW = self.conv(feature_BCHW)
        else:
            summary_BCHW = self.reader[0].summarize(feature_BCHW)
        output: Tensor = self.cross_attn(latent_BNC, tokens_from_map(summary_BCHW))
        return output


class FoldedMapReader(nn.Module):
    """A :class:`~dynperceiver.layers.MapReader` whose positions are resized once for maps of one size.

    Args:
        reader: The trained layer.
        query_NC: See :class:`FoldedCrossAttention`.
    """

    def __init__(self, reader: MapReader, query_NC: Tensor | None = None) -> None:
        super().__init__()
        self.layout = reader.layout
        self.reader = [reader]  # in a list, so that its attention is no part of this module
        self.position = reader.position
        self.cross_attn = FoldedCrossAttention(reader.cross_attn, query_NC)
        self._resized: dict[Any, Tensor] = {}

    def _positions(self, sides: tuple[int, ...]) -> Tensor:
        if torch.compiler.is_exporting():
            return self.cross_attn.of_keys(self.reader[0].positions(sides, self.position))
        key = sides, self.position.dtype, self.position.device, torch.is_inference_mode_enabled()
        if key not in self._resized:
            self._resized[key] = self.cross_attn.of_keys(self.reader[0].positions(sides, self.position)).detach()
        return self._resized[key]

    def forward(self, latent_BNC: Tensor, feature: Tensor) -> Tensor:
        """Refine the latent code (B, N, C) by a map; returns (B, N, C)."""
        summary = self.reader[0].summarize(feature)
        output: Tensor = self.cross_attn(latent_BNC, summary.flatten(2).transpose(1, 2), self._positions(tuple(summary.shape[2:])))
        return output


def _can_pool(dwc: nn.Module | None) -> TypeGuard[nn.Conv2d]:
    """Whether this is a depthwise convolution whose output has the size of its input, as the summary of a reader begins with."""
    return (
        isinstance(dwc, nn.Conv2d)
        and _is_plain(dwc, nn.Conv2d)
        and type(dwc)._conv_forward is nn.Conv2d._conv_forward
        and dwc.groups == dwc.in_channels == dwc.out_channels
        and (dwc.stride, dwc.dilation, dwc.padding_mode) == ((1, 1), (1, 1), 'zeros')
        and all(side % 2 for side in dwc.kernel_size)
        and dwc.padding == tuple(side // 2 for side in dwc.kernel_size)
    )


def _pooled_convolution(dwc: nn.Conv2d, window: tuple[int, int]) -> nn.Conv2d:
    """Average over windows of ``dwc(x) + x``, as one convolution."""
    weight_C1KK = dwc.weight.detach().double()
    channels, _, *kernel = weight_C1KK.shape
    weight_C1KK = weight_C1KK.clone()
    weight_C1KK[:, :, kernel[0] // 2, kernel[1] // 2] += 1
    box = weight_C1KK.new_full((1, 1, *window), 1 / (window[0] * window[1]))
    weight_C1KK = F.conv2d(weight_C1KK, box, padding=(window[0] - 1, window[1] - 1))
    side = (weight_C1KK.shape[2], weight_C1KK.shape[3])
    conv = nn.Conv2d(channels, channels, side, window, dwc.padding, groups=channels, device='meta')  # type: ignore[arg-type]
    conv.weight = nn.Parameter(weight_C1KK.to(dwc.weight.dtype), requires_grad=False)
    conv.bias = dwc.bias
    return conv


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


def _is_plain(module: object, kind: type[nn.Module]) -> bool:
    """Whether a module computes what its kind computes; a subclass or a single module may have a forward pass of its own."""
    return isinstance(module, kind) and type(module).forward is kind.forward and 'forward' not in vars(module)


def _can_fold_attention(layer: Any) -> bool:
    """Whether an attention layer has the parts and the forward passes of ours."""
    if not _is_plain(layer, SelfAttentionLayer) and not _is_plain(layer, CrossAttentionLayer):
        return False
    attention, mlp = layer.attention, layer.mlp
    if not (_is_plain(attention, Attention) and _is_plain(mlp, AttentionMlp)):
        return False
    products = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj, mlp.fc2)
    has_biases = [linear.bias is not None for linear in products if _is_plain(linear, nn.Linear)]
    return has_biases == [False, False, False, True, True] and (
        isinstance(layer, CrossAttentionLayer) or attention.relative_position_bias is None
    )


def _can_fold_reader(reader: FeatureToLatent) -> bool:
    own_summary = type(reader).summarize is not FeatureToLatent.summarize or 'summarize' in vars(reader)
    return _is_plain(reader, FeatureToLatent) and not own_summary


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
        elif isinstance(reader, MapReader) and _is_plain(reader, MapReader):
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
