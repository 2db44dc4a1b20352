"""The layers of a folded network: attention with its products joined, and reads whose constants are computed once.

Shape suffixes: B rows, C channels, H/W feature size, N query tokens, M key/value tokens, D channels of a head.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import Attention, AttentionMlp, CrossAttentionLayer, FeatureToLatent, MapReader, SelfAttentionLayer, tokens_from_map

__all__ = ['FoldedCrossAttention', 'FoldedMapReader', 'FoldedReader', 'FoldedSelfAttention', 'add_linear', 'attend', 'is_plain']


def is_plain(module: object, kind: type[nn.Module]) -> bool:
    """Whether a module computes what its kind computes; a subclass or a single module may have a forward pass of its own."""
    return isinstance(module, kind) and type(module).forward is kind.forward and 'forward' not in vars(module)


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
    position_1MC: Tensor | None

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
        and is_plain(dwc, nn.Conv2d)
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
