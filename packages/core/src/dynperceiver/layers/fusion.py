"""Cross-attention between the feature branch and the latent branch (paper section 3.2, X2Z and Z2X).

Shape suffixes: B rows, C channels, H/W feature size, N latent tokens. Maps and tokens are converted by views only when the map
is channels-last; the maps returned here always are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynperceiver_runtime import UserError

from .attention import CrossAttentionLayer

__all__ = ['FeatureToLatent', 'LatentToFeature', 'tokens_from_map']


def tokens_from_map(map_BCHW: Tensor) -> Tensor:
    """The pixels of a map (B, C, H, W) as tokens (B, H*W, C)."""
    return map_BCHW.permute(0, 2, 3, 1).flatten(1, 2)


class FeatureToLatent(nn.Module):
    """X2Z: the latent code reads a 7x7 summary of the feature map.

    The summary is the adaptive average pool of ``dwc(x) + x``, where ``dwc`` is a depthwise 7x7 convolution; without it, of ``x``.

    Args:
        latent_channels: Channels of the latent code, which are also those of the attention.
        feature_channels: Channels of the feature map.
        dwc: Whether to summarise through the depthwise convolution.
        summary_size: Side of the pooled map; the key position parameter has ``summary_size ** 2`` tokens.
    """

    def __init__(self, latent_channels: int, feature_channels: int, dwc: bool = True, summary_size: int = 7) -> None:
        super().__init__()
        self.summary_size = summary_size
        self.dwc = nn.Conv2d(feature_channels, feature_channels, 7, padding=3, groups=feature_channels) if dwc else None
        self.cross_attn = CrossAttentionLayer(latent_channels, feature_channels, num_kv_tokens=summary_size**2)

    def forward(self, latent_BNC: Tensor, feature_BCHW: Tensor) -> Tensor:
        """Refine the latent code (B, N, C) by the feature map (B, C', H, W); returns (B, N, C)."""
        output: Tensor = self.cross_attn(latent_BNC, tokens_from_map(self.summarize(feature_BCHW)))
        return output

    def summarize(self, feature_BCHW: Tensor) -> Tensor:
        """The summary of a feature map (B, C', H, W), shape (B, C', summary_size, summary_size)."""
        if self.dwc is not None:
            feature_BCHW = self.dwc(feature_BCHW) + feature_BCHW
        height, width = feature_BCHW.shape[2:]
        if torch.compiler.is_exporting() and (height % self.summary_size or width % self.summary_size):
            rows_QH, columns_QW = (feature_BCHW.new_tensor(_window_means(side, self.summary_size)) for side in (height, width))
            return rows_QH @ feature_BCHW @ columns_QW.t()
        return F.adaptive_avg_pool2d(feature_BCHW, self.summary_size)


def _window_means(side: int, num_windows: int) -> list[list[float]]:
    """The matrix (num_windows, side) that adaptive average pooling multiplies one side of a map by; graphs know even windows alone."""
    rows = []
    for number in range(num_windows):
        start, end = number * side // num_windows, -(-(number + 1) * side // num_windows)
        rows.append([1 / (end - start) if start <= pixel < end else 0.0 for pixel in range(side)])
    return rows


class LatentToFeature(nn.Module):
    """Z2X: every pixel of the feature map reads the latent code, with an eighth of its channels in the attention.

    Args:
        feature_channels: Channels of the feature map (the query).
        latent_channels: Channels of the latent code.

    Raises:
        UserError: If the feature map has fewer than 8 channels.
    """

    def __init__(self, feature_channels: int, latent_channels: int) -> None:
        super().__init__()
        if feature_channels < 8:
            raise UserError(
                f'a feature map of {feature_channels} channels is too narrow for latent-to-feature attention, which uses an eighth of '
                'them; choose a width that gives at least 8 channels'
            )
        self.cross_attn = CrossAttentionLayer(feature_channels, latent_channels, qk_channels=feature_channels // 8)

    def forward(self, feature_BCHW: Tensor, latent_BNC: Tensor) -> Tensor:
        """Refine the map (B, C, H, W) by the latent code (B, N, C'); returns (B, C, H, W), channels-last."""
        size = feature_BCHW.shape[2:]
        tokens_BNC = self.cross_attn(tokens_from_map(feature_BCHW), latent_BNC)
        output: Tensor = torch.unflatten(tokens_BNC, 1, size).permute(0, 3, 1, 2)
        return output
