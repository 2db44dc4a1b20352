"""A latent code reads a map with few operators: averaged by whole factors to about a hundred tokens, no depthwise convolution.

Shape suffixes: B rows, C channels, N latent tokens, M tokens read. A map has any number of axes: see :class:`MapLayout`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from dynperceiver_runtime import UserError

from .attention import CrossAttentionLayer

__all__ = ['IMAGE_LAYOUT', 'MapLayout', 'MapReader', 'pooling_factor']

MAX_FRAMES = 8
POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
RESIZES = {1: 'linear', 2: 'bilinear', 3: 'trilinear'}


@dataclass(frozen=True)
class MapLayout:
    """The order of the axes of a map.

    Attributes:
        axes: A letter per axis: ``BCHW`` for maps of images, ``BCTHW`` or ``BTHWC`` for maps of clips, ``BMC`` for tokens. B stands first.

    Raises:
        UserError: For another string.
    """

    axes: str = 'BCHW'

    def __post_init__(self) -> None:
        if self.axes[:1] != 'B' or self.axes.count('C') != 1 or not self.num_sides <= 3 or len(set(self.axes)) != len(self.axes):
            raise UserError(f'layout={self.axes!r}: pass B, one C and up to three other letters, for example BCHW, BCTHW, BTHWC or BMC')

    @property
    def num_sides(self) -> int:
        """Number of axes that are neither rows nor channels."""
        return len(self.axes) - 2

    @property
    def side_axes(self) -> tuple[int, ...]:
        """Numbers of these axes."""
        return tuple(number for number, letter in enumerate(self.axes) if letter not in 'BC')

    def channels_first(self, feature: Tensor) -> Tensor:
        """The map as (B, C, sides), as a view."""
        channel_axis = self.axes.index('C')
        return feature if channel_axis == 1 else feature.movedim(channel_axis, 1)

    def from_channels_first(self, feature: Tensor) -> Tensor:
        """The reverse of :meth:`channels_first`."""
        channel_axis = self.axes.index('C')
        return feature if channel_axis == 1 else feature.movedim(1, channel_axis)

    def mean(self, feature: Tensor) -> Tensor:
        """Mean over all but rows and channels: (B, C)."""
        return feature.mean(self.side_axes)


IMAGE_LAYOUT = MapLayout()


def pooling_factor(side: int, max_side: int) -> int:
    """The whole factor by which a side is averaged, so that at most about ``max_side`` are left.

    The least that divides the side and leaves at least half as many; where there is none, the least that leaves so many, with a smaller
    last window.
    """
    least = -(-side // max_side)
    return next((factor for factor in range(least, 2 * least + 1) if side % factor == 0), least)


class MapReader(nn.Module):
    """X2Z in its lean form: pre-norm cross-attention on the averaged map, with a learned position per token added to the keys.

    Maps of any size are read; the positions, learned on a grid of at most ``max_tokens``, are resized where a map has fewer tokens.

    Args:
        latent_channels: Channels of the latent code, which are also those of the attention.
        feature_channels: Channels of the map.
        max_tokens: Tokens to read at most, of a clip per frame, and at most 8 frames. A map whose sides have no suitable divisor may
            keep a few more.
        num_heads: Attention heads.
        layout: Order of the map's axes.

    Raises:
        UserError: If a number is outside its rule.
    """

    def __init__(
        self, latent_channels: int, feature_channels: int, max_tokens: int = 100, num_heads: int = 4, layout: MapLayout = IMAGE_LAYOUT
    ) -> None:
        super().__init__()
        if max_tokens < 1:
            raise UserError(f'max_tokens={max_tokens}: pass the number of tokens that a read takes of a map at most, for example 100')
        self.layout = layout
        side = isqrt(max_tokens)
        self.max_sides = {1: (max_tokens,), 2: (side, side), 3: (MAX_FRAMES, side, side)}[layout.num_sides]
        self.position = nn.Parameter(torch.empty(1, latent_channels, *self.max_sides))
        self.cross_attn = CrossAttentionLayer(latent_channels, feature_channels, num_heads=num_heads)
        trunc_normal_(self.position, std=0.02)

    def forward(self, latent_BNC: Tensor, feature: Tensor) -> Tensor:
        """Refine the latent code (B, N, C) by a map in the reader's layout; returns (B, N, C)."""
        summary = self.summarize(feature)
        output: Tensor = self.cross_attn(latent_BNC, summary.flatten(2).transpose(1, 2), self.positions(summary.shape[2:]))
        return output

    def average(self, feature: Tensor) -> Tensor:
        """The averaged map in the layout of the map."""
        return self.layout.from_channels_first(self.summarize(feature))

    def is_even(self, feature: Tensor) -> bool:
        """Whether all windows of a map have the same size, so that the averaged map has the map's mean."""
        sides = self.layout.channels_first(feature).shape[2:]
        return not any(side % pooling_factor(side, most) for side, most in zip(sides, self.max_sides, strict=True))

    def summarize(self, feature: Tensor) -> Tensor:
        """The averaged map, shape (B, C', sides); an averaged map comes out as it is."""
        feature = self.layout.channels_first(feature)
        factors = tuple(map(pooling_factor, feature.shape[2:], self.max_sides))
        if max(factors) == 1:
            return feature
        pool = POOLS[self.layout.num_sides]
        summary: Tensor = pool(feature, factors, ceil_mode=True)
        return summary

    def positions(self, sides: Sequence[int], position: Tensor | None = None) -> Tensor:
        """What is added to the keys of an averaged map with these sides, shape (1, M, C).

        Args:
            sides: The sides.
            position: In the place of the learned one.
        """
        position = self.position if position is None else position
        if tuple(sides) != self.max_sides:
            position = F.interpolate(position, size=list(sides), mode=RESIZES[self.layout.num_sides], align_corners=False)
        return position.flatten(2).transpose(1, 2)
