"""EfficientNet-Lite feature branches (Tan and Le, ICML 2019; the Lite models of 2020: no squeeze-excitation, ReLU6, a fixed stem and head).

Shape suffixes: B rows, C channels, H/W feature size.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from torch import nn

from dynperceiver_runtime import UserError

from ..layers import BlockSequence
from .base import FeatureBranch, ShiftFactory, initialize_convolutions, make_divisible
from .mobilenet_v3 import InvertedResidualRow, conv_norm, inverted_residuals

__all__ = ['EfficientNetLiteVariant']

# repeats, kernel, stride, expansion, output channels; a line is a stage
STAGES = (
    ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24)),
    ((2, 5, 2, 6, 40),),
    ((3, 3, 2, 6, 80), (3, 5, 1, 6, 112)),
    ((4, 5, 2, 6, 192), (1, 3, 1, 6, 320)),
)


@dataclass(frozen=True)
class EfficientNetLiteVariant:
    """A row of the EfficientNet-Lite table.

    Attributes:
        name: Name under which users ask for it.
        channel_factor: Multiplier of the blocks' channels; stem and head are not scaled.
        depth_factor: Multiplier of the blocks' repeats, but for those of the first and the last kind of block.
        image_size: Side in pixels of the images that it was published for.
        dropout: Dropout before the classifier in its published training.
        mean: Mean of the pixels (0 to 255) of each channel in its published training.
        std: Divisor of the pixels of each channel in its published training.
        stem_channels: Channels of the first convolution.
        head_channels: Channels of the 1x1 convolution at the end.
        strides: Strides of x_0 .. x_4 against the image.
    """

    name: str
    channel_factor: float
    depth_factor: float
    image_size: int
    dropout: float
    mean: tuple[float, float, float] = (127.0, 127.0, 127.0)
    std: tuple[float, float, float] = (128.0, 128.0, 128.0)
    stem_channels: int = 32
    head_channels: int = 1280
    strides: tuple[int, ...] = (2, 4, 8, 16, 32)

    def channels(self, width: float) -> tuple[int, ...]:
        """Channels of x_0 .. x_4; ``width`` multiplies all channels of the variant, rounded to multiples of 8.

        Raises:
            UserError: If ``width`` is not positive.
        """
        if width <= 0:
            raise UserError(f'width={width} for {self.name}: a positive multiplier is needed; 1.0 is the published variant')
        outs = (make_divisible(stage[-1][-1] * self.channel_factor * width) for stage in STAGES[:-1])
        return (make_divisible(self.stem_channels * width), *outs, make_divisible(self.head_channels * width))

    def rows(self, width: float) -> list[list[InvertedResidualRow]]:
        """The blocks of the four stages, with the channels that ``width`` gives."""
        in_channels = self.channels(width)[0]
        stages: list[list[InvertedResidualRow]] = []
        kinds = sum(map(len, STAGES))
        number = 0
        for stage in STAGES:
            stages.append([])
            for repeats, kernel, stride, expansion, out in stage:
                if 0 < number < kinds - 1:
                    repeats = ceil(repeats * self.depth_factor)
                number += 1
                out_channels = make_divisible(out * self.channel_factor * width)
                for repeat in range(repeats):
                    stages[-1].append(
                        InvertedResidualRow(
                            kernel,
                            expansion * in_channels,
                            out_channels,
                            se=False,
                            hardswish=False,
                            stride=1 if repeat else stride,
                            relu6=True,
                            same_padding=True,
                        )
                    )
                    in_channels = out_channels
        return stages

    def build(self, width: float, temporal_shift: ShiftFactory | None, drop_path: float) -> FeatureBranch:
        """Build the branch; ``width`` multiplies all channels of the variant, rounded to multiples of 8.

        Raises:
            UserError: If ``width`` is not positive.
        """
        channels, rows = self.channels(width), self.rows(width)
        stages = inverted_residuals(channels[0], rows, 1.0, temporal_shift, drop_path)
        stages[-1].append(conv_norm(rows[-1][-1].out, channels[-1], activation=nn.ReLU6))
        branch = FeatureBranch(
            conv_norm(3, channels[0], 3, 2, activation=nn.ReLU6, same_padding=True),
            [BlockSequence(*blocks) for blocks in stages],
            channels,
            strides=self.strides,
            dropout=self.dropout,
        )
        initialize_convolutions(branch)
        return branch
