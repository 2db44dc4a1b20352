"""Channel attention of the feature branches (Hu et al., CVPR 2018)."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ['SqueezeExcitation']


class SqueezeExcitation(nn.Module):
    """Scale the channels by a two-layer gate on their global means; shape (B, C, H, W) in and out.

    Args:
        channels: Channels of the map.
        squeeze_channels: Hidden channels of the gate.
        gate: Activation of the gate: ``nn.Sigmoid`` (RegNetY) or ``nn.Hardsigmoid`` (MobileNet-v3).
    """

    def __init__(self, channels: int, squeeze_channels: int, gate: type[nn.Module]) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeeze_channels, 1)
        self.fc2 = nn.Conv2d(squeeze_channels, channels, 1)
        self.activation = nn.ReLU(inplace=True)
        self.gate = gate()

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        """Gate the map."""
        squeezed = self.activation(self.fc1(feature_BCHW.mean((2, 3), keepdim=True)))
        scale: Tensor = self.gate(self.fc2(squeezed))
        return feature_BCHW * scale
