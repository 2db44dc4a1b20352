"""Attention layers of the latent branch (paper section 3.2).

Shape suffixes: B rows, N query tokens, M key/value tokens, C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from dynperceiver_runtime import UserError

__all__ = ['Attention', 'AttentionMlp', 'CrossAttentionLayer', 'SelfAttentionLayer']


class Attention(nn.Module):
    """Multi-head attention; q, k and v are projected without bias, the output with one.

    Args:
        num_heads: Number of heads; must divide ``qk_channels``.
        query_channels: Channels of the query, and of the output.
        kv_channels: Channels of keys and values before projection.
        qk_channels: Projected channels of query, key and value over all heads. Default: ``query_channels``.
        num_kv_tokens: If given, a learned position parameter of shape (1, num_kv_tokens, qk_channels) is added to the projected
            keys, so that attention knows where a key comes from.

    Raises:
        UserError: If ``num_heads`` does not divide ``qk_channels``.
    """

    def __init__(
        self, num_heads: int, query_channels: int, kv_channels: int, qk_channels: int | None = None, num_kv_tokens: int | None = None
    ) -> None:
        super().__init__()
        qk_channels = qk_channels or query_channels
        if qk_channels % num_heads:
            raise UserError(
                f'{qk_channels} attention channels cannot be split over {num_heads} heads; choose a width whose channels are a multiple of '
                f'{num_heads}'
            )
        self.num_heads = num_heads
        self.q_proj = nn.Linear(query_channels, qk_channels, bias=False)
        self.k_proj = nn.Linear(kv_channels, qk_channels, bias=False)
        self.v_proj = nn.Linear(kv_channels, qk_channels, bias=False)
        self.o_proj = nn.Linear(qk_channels, query_channels)
        self.relative_position_bias: nn.Parameter | None = None
        if num_kv_tokens is not None:
            self.relative_position_bias = nn.Parameter(self.k_proj.weight.new_empty(1, num_kv_tokens, qk_channels))
            trunc_normal_(self.relative_position_bias, std=0.02)

    def _split(self, tokens_BNC: Tensor) -> Tensor:
        if self.num_heads == 1:
            return tokens_BNC.unsqueeze(1)
        return torch.unflatten(tokens_BNC, 2, (self.num_heads, -1)).transpose(1, 2)

    def forward(self, query_BNC: Tensor, kv_BMC: Tensor, position_1MC: Tensor | None = None) -> Tensor:
        """Attend from (B, N, query_channels) to (B, M, kv_channels); returns (B, N, query_channels).

        Args:
            query_BNC: The query.
            kv_BMC: Keys and values.
            position_1MC: Added to the projected keys, shape (1, M, qk_channels). Default: the learned one, if there is one.
        """
        key = self.k_proj(kv_BMC)
        position_1MC = self.relative_position_bias if position_1MC is None else position_1MC
        if position_1MC is not None:
            key = key + position_1MC
        mixed = F.scaled_dot_product_attention(self._split(self.q_proj(query_BNC)), self._split(key), self._split(self.v_proj(kv_BMC)))
        merged_BNC = mixed.squeeze(1) if self.num_heads == 1 else mixed.transpose(1, 2).flatten(2)
        output: Tensor = self.o_proj(merged_BNC)
        return output


class AttentionMlp(nn.Module):
    """LayerNorm, Linear C -> widening*C, exact GELU, Linear back to C; shape (..., C) in and out."""

    def __init__(self, channels: int, widening: int) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, widening * channels)
        self.fc2 = nn.Linear(widening * channels, channels)

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        output: Tensor = self.fc2(F.gelu(self.fc1(self.layernorm(tokens_BNC))))
        return output


class CrossAttentionLayer(nn.Module):
    """Pre-norm cross-attention with a residual on the query, then an MLP (widening 1) with a residual.

    Args:
        query_channels: Channels of the query, and of the output.
        kv_channels: Channels of keys and values.
        qk_channels: Projected channels; default ``query_channels``.
        num_kv_tokens: See :class:`Attention`.
        num_heads: See :class:`Attention`.
    """

    def __init__(
        self,
        query_channels: int,
        kv_channels: int,
        qk_channels: int | None = None,
        num_kv_tokens: int | None = None,
        num_heads: int = 1,
    ) -> None:
        super().__init__()
        self.q_norm = nn.LayerNorm(query_channels)
        self.kv_norm = nn.LayerNorm(kv_channels)
        self.attention = Attention(num_heads, query_channels, kv_channels, qk_channels, num_kv_tokens)
        self.mlp = AttentionMlp(query_channels, widening=1)

    def forward(self, query_BNC: Tensor, kv_BMC: Tensor, position_1MC: Tensor | None = None) -> Tensor:
        """Refine (B, N, query_channels) by (B, M, kv_channels); returns the query's shape. See :class:`Attention` for the positions."""
        query_BNC = query_BNC + self.attention(self.q_norm(query_BNC), self.kv_norm(kv_BMC), position_1MC)
        output: Tensor = query_BNC + self.mlp(query_BNC)
        return output


class SelfAttentionLayer(nn.Module):
    """Pre-norm self-attention and MLP, each with a residual.

    Args:
        channels: Token channels.
        num_heads: Attention heads; must divide ``channels``.
        widening: MLP widening (4 in the reference recipe).
    """

    def __init__(self, channels: int, num_heads: int, widening: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = Attention(num_heads, channels, channels)
        self.mlp = AttentionMlp(channels, widening)

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        """Refine tokens of shape (B, N, C)."""
        normed = self.norm(tokens_BNC)
        tokens_BNC = tokens_BNC + self.attention(normed, normed)
        output: Tensor = tokens_BNC + self.mlp(tokens_BNC)
        return output
