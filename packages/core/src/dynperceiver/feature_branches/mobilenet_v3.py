"""MobileNet-v3-Large feature branches with a width multiplier (Howard et al., ICCV 2019).

Shape suffixes: B rows, C channels, H/W feature size.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from dynperceiver_runtime import UserError

from ..layers import BlockSequence, SqueezeExcitation
from .base import FeatureBranch, ResidualBlock, ShiftFactory, initialize_convolutions, make_divisible

__all__ = ['InvertedResidual', 'InvertedResidualRow', 'MobileNetV3Variant']


@dataclass(frozen=True)
class InvertedResidualRow:
    """One block of the table, channels before the width multiplier.

    Attributes:
        kernel: Side of the depthwise kernel.
        expanded: Channels of the depthwise convolution.
        out: Output channels.
        se: Whether squeeze-excitation follows the depthwise convolution.
        hardswish: Hardswish instead of ReLU.
        stride: Spatial stride.
    """

    kernel: int
    expanded: int
    out: int
    se: bool
    hardswish: bool
    stride: int


def _conv_norm(
    in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1, activation: type[nn.Module] | None = None
) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01),
    ]
    if activation is not None:
        layers.append(activation(inplace=True))
    return nn.Sequential(*layers)


class InvertedResidual(ResidualBlock):
    """1x1 expansion, depthwise convolution with the stride, squeeze-excitation, linear 1x1; identity shortcut where shapes allow.

    Only blocks with the shortcut are temporally shifted, so that a shift never costs spatial information.

    Args:
        in_channels: Channels of the input.
        row: The block's row of the table.
        width: Multiplier of the row's channels.
        temporal_shift: See :class:`ResidualBlock`.
        drop_path: See :class:`ResidualBlock`.
    """

    def __init__(
        self, in_channels: int, row: InvertedResidualRow, width: float, temporal_shift: ShiftFactory | None, drop_path: float
    ) -> None:
        expanded, out_channels = make_divisible(row.expanded * width), make_divisible(row.out * width)
        has_shortcut = row.stride == 1 and in_channels == out_channels
        super().__init__(temporal_shift if has_shortcut else None, drop_path if has_shortcut else 0.0)
        self.has_shortcut = has_shortcut
        self.out_channels = out_channels
        activation: type[nn.Module] = nn.Hardswish if row.hardswish else nn.ReLU
        layers: list[nn.Module] = []
        if expanded != in_channels:
            layers.append(_conv_norm(in_channels, expanded, activation=activation))
        layers.append(_conv_norm(expanded, expanded, row.kernel, row.stride, groups=expanded, activation=activation))
        if row.se:
            layers.append(SqueezeExcitation(expanded, make_divisible(expanded // 4), nn.Hardsigmoid))
        layers.append(_conv_norm(expanded, out_channels))
        self.block = nn.Sequential(*layers)

    def residual(self, feature_BCHW: Tensor) -> Tensor:
        output: Tensor = self.block(feature_BCHW)
        return output

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        """Shape (B, in_channels, H, W) to (B, out_channels, H/stride, W/stride)."""
        output = self.run_residual(feature_BCHW)
        return output + feature_BCHW if self.has_shortcut else output


@dataclass(frozen=True)
class MobileNetV3Variant:
    """A row of the MobileNet-v3 table.

    Attributes:
        name: Name under which users ask for it.
        stem: Blocks that follow the first convolution within the stem.
        stages: Blocks of the four stages.
        stem_channels: Channels of the first convolution, before the width multiplier.
        head_channels: Hidden width of the classifier head, before the width multiplier.
        last_expansion: How many times as many channels the 1x1 convolution at the end has as the block before it.
        strides: Strides of x_0 .. x_4 against the image.
    """

    name: str
    stem: tuple[InvertedResidualRow, ...]
    stages: tuple[tuple[InvertedResidualRow, ...], ...]
    stem_channels: int = 16
    head_channels: int = 1280
    last_expansion: int = 6
    strides: tuple[int, ...] = (4, 8, 16, 32, 32)

    def channels(self, width: float) -> tuple[int, ...]:
        """Channels of x_0 .. x_4; ``width`` multiplies all channels, rounded to multiples of 8.

        Raises:
            UserError: If ``width`` is not positive.
        """
        if width <= 0:
            raise UserError(f'width={width} for {self.name}: a positive multiplier is needed, such as 0.5, 0.75, 1.0, 1.25, 1.5 or 2.0')
        channels = [make_divisible(rows[-1].out * width) for rows in (self.stem, *self.stages)]
        return (*channels[:-1], self.last_expansion * channels[-1])

    def build(self, width: float, temporal_shift: ShiftFactory | None, drop_path: float) -> FeatureBranch:
        """Build the branch; ``width`` multiplies all channels, rounded to multiples of 8.

        Raises:
            UserError: If ``width`` is not positive.
        """
        channels = self.channels(width)
        total, built = len(self.stem) + sum(len(rows) for rows in self.stages), 0

        def blocks(in_channels: int, rows: tuple[InvertedResidualRow, ...]) -> tuple[list[nn.Module], int]:
            nonlocal built
            layers: list[nn.Module] = []
            for row in rows:
                block = InvertedResidual(in_channels, row, width, temporal_shift, drop_path * built / (total - 1))
                layers.append(block)
                in_channels = block.out_channels
                built += 1
            return layers, in_channels

        first = make_divisible(self.stem_channels * width)
        stem, out_channels = blocks(first, self.stem)
        stages = []
        for i, rows in enumerate(self.stages):
            layers, out_channels = blocks(out_channels, rows)
            if i == len(self.stages) - 1:
                layers.append(_conv_norm(out_channels, channels[-1], activation=nn.Hardswish))
            stages.append(BlockSequence(*layers))
        branch = FeatureBranch(
            nn.Sequential(_conv_norm(3, first, 3, 2, activation=nn.Hardswish), *stem),
            stages,
            channels,
            strides=self.strides,
            head_channels=make_divisible(self.head_channels * width),
        )
        initialize_convolutions(branch)
        return branch
