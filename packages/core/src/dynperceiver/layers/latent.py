"""Layers on the latent code alone: token mixer, channel expander, self-attention stack (paper section 3.2).

Shape suffixes: B rows, N latent tokens, C channels.
"""

from __future__ import annotations

from torch import Tensor, nn

from .attention import SelfAttentionLayer
from .recompute import BlockSequence

__all__ = ['ChannelExpander', 'TokenMixer', 'self_attention_stack']


class TokenMixer(nn.Sequential):
    """LayerNorm over the tokens, then Linear N -> N/2 along the token axis: half the tokens go on to the next stage.

    Args:
        num_tokens: N, an even number.
    """

    def __init__(self, num_tokens: int) -> None:
        super().__init__(nn.LayerNorm(num_tokens), nn.Linear(num_tokens, num_tokens // 2))

    def forward(self, latent_BNC: Tensor) -> Tensor:
        """Mix (B, N, C) to (B, N/2, C)."""
        norm, linear = self
        mixed: Tensor = linear(norm(latent_BNC.transpose(1, 2))).transpose(1, 2)
        return mixed


class ChannelExpander(nn.Sequential):
    """LayerNorm over the channels, then Linear to the next stage's channels; (B, N, C) to (B, N, C')."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(nn.LayerNorm(in_channels), nn.Linear(in_channels, out_channels))


def self_attention_stack(channels: int, num_heads: int, depth: int, widening: int = 4) -> BlockSequence:
    """``depth`` self-attention layers in a row, on tokens of shape (B, N, channels)."""
    return BlockSequence(*(SelfAttentionLayer(channels, num_heads, widening) for _ in range(depth)))
