"""RegNetY feature branches (Radosavovic et al., CVPR 2020).

Shape suffixes: B rows, C channels, H/W feature size.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor, nn

from dynperceiver_runtime import UserError

from ..layers import BlockSequence, SqueezeExcitation
from .base import FeatureBranch, ResidualBlock, ShiftFactory, initialize_convolutions

__all__ = ['RegNetBlock', 'RegNetYVariant']


def _conv_norm(in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1, relu: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
    if relu:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class RegNetBlock(ResidualBlock):
    """1x1, grouped 3x3 with the stride, squeeze-excitation, 1x1, residual, ReLU; bottleneck ratio 1.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Spatial stride.
        group_width: Channels per group of the 3x3 convolution.
        temporal_shift: See :class:`ResidualBlock`.
        drop_path: See :class:`ResidualBlock`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, group_width: int, temporal_shift: ShiftFactory | None, drop_path: float
    ) -> None:
        super().__init__(temporal_shift, drop_path)
        self.proj = None
        if stride != 1 or in_channels != out_channels:
            self.proj = _conv_norm(in_channels, out_channels, stride=stride, relu=False)
        self.f = nn.Sequential(
            OrderedDict(
                a=_conv_norm(in_channels, out_channels),
                b=_conv_norm(out_channels, out_channels, 3, stride, groups=out_channels // group_width),
                se=SqueezeExcitation(out_channels, round(0.25 * in_channels), nn.Sigmoid),
                c=_conv_norm(out_channels, out_channels, relu=False),
            )
        )
        self.activation = nn.ReLU(inplace=True)

    def residual(self, feature_BCHW: Tensor) -> Tensor:
        output: Tensor = self.f(feature_BCHW)
        return output

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        """Shape (B, in_channels, H, W) to (B, out_channels, H/stride, W/stride)."""
        shortcut = feature_BCHW if self.proj is None else self.proj(feature_BCHW)
        output: Tensor = self.activation(self.run_residual(feature_BCHW) + shortcut)
        return output


@dataclass(frozen=True)
class RegNetYVariant:
    """A row of the RegNetY table.

    Attributes:
        name: Name under which users ask for it.
        widths: Channels per stage.
        depths: Blocks per stage.
        group_width: Channels per group of the 3x3 convolutions.
        stem_channels: Channels of the stem.
        strides: Strides of x_0 .. x_4 against the image.
    """

    name: str
    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    group_width: int
    stem_channels: int = 32
    strides: tuple[int, ...] = (2, 4, 8, 16, 32)

    def channels(self, width: float) -> tuple[int, ...]:
        """Channels of x_0 .. x_4.

        Raises:
            UserError: If ``width`` is not 1: a RegNet is chosen by its variant.
        """
        if width != 1:
            raise UserError(f'width={width} for {self.name}: RegNetY has no width multiplier; leave it at 1.0 and choose another variant')
        return (self.stem_channels, *self.widths)

    def build(self, width: float, temporal_shift: ShiftFactory | None, drop_path: float) -> FeatureBranch:
        """Build the branch.

        Raises:
            UserError: If ``width`` is not 1: a RegNet is chosen by its variant.
        """
        channels = self.channels(width)
        stem = _conv_norm(3, channels[0], 3, 2)
        stages = []
        total, built = sum(self.depths), 0
        for before, out_channels, depth in zip(channels, channels[1:], self.depths, strict=False):
            blocks = []
            for j in range(depth):
                rate = drop_path * built / max(total - 1, 1)
                in_channels = before if j == 0 else out_channels
                blocks.append(RegNetBlock(in_channels, out_channels, 2 if j == 0 else 1, self.group_width, temporal_shift, rate))
                built += 1
            stages.append(BlockSequence(*blocks))
        branch = FeatureBranch(stem, stages, channels, strides=self.strides)
        initialize_convolutions(branch)
        return branch
