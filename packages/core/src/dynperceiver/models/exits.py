"""The four classifiers, in the order in which they become available (paper section 3.3).

All of them work per row (image or frame); averaging over the frames of a clip is the network's business.

Shape suffixes: B rows, C channels, H/W feature size, N latent tokens, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ['ExitHeads', 'FeatureExit', 'ForwardKnowledgeTransfer', 'LatentExit', 'MergedExit']


class ForwardKnowledgeTransfer(nn.Sequential):
    """FKT: Linear(classes -> channels), BatchNorm1d, ReLU on an earlier exit's logits; (B, K) to (B, channels)."""

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__(nn.Linear(num_classes, channels), nn.BatchNorm1d(channels), nn.ReLU(inplace=True))


def _classifier(in_channels: int, hidden_channels: int | None, num_classes: int, dropout: float) -> list[nn.Module]:
    if hidden_channels is None:
        return [nn.Linear(in_channels, num_classes)]
    return [
        nn.Linear(in_channels, hidden_channels),
        nn.Hardswish(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(hidden_channels, num_classes),
    ]


class LatentExit(nn.Module):
    """Exits 1 and 2: Linear on the mean latent token, joined by the transferred logits of the exit before, if any.

    Args:
        channels: Channels of the latent code.
        num_classes: Classes.
        fkt_channels: Channels of the transferred logits; ``None`` for no transfer.
    """

    def __init__(self, channels: int, num_classes: int, fkt_channels: int | None = None) -> None:
        super().__init__()
        self.fkt = None if fkt_channels is None else ForwardKnowledgeTransfer(num_classes, fkt_channels)
        self.classifier = nn.Linear(channels + (fkt_channels or 0), num_classes)

    def forward(self, latent_BNC: Tensor, carry_BK: Tensor | None) -> Tensor:
        """Classify (B, N, C), given the earlier logits (B, K) where knowledge is transferred; returns (B, K)."""
        pooled_BC = latent_BNC.mean(1)
        if self.fkt is not None:
            pooled_BC = torch.cat((pooled_BC, self.fkt(carry_BK)), 1)
        logits_BK: Tensor = self.classifier(pooled_BC)
        return logits_BK


class FeatureExit(nn.Module):
    """Exit 3: the CNN's own classifier on the average-pooled feature map before the last latent-to-feature attention.

    Args:
        channels: Channels of the map.
        num_classes: Classes.
        hidden_channels: Hidden width of a two-layer head (MobileNet-v3); ``None`` for a single Linear.
        dropout: Dropout before the last Linear.
    """

    def __init__(self, channels: int, num_classes: int, hidden_channels: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        layers = _classifier(channels, hidden_channels, num_classes, dropout)
        self.dropout = nn.Dropout(dropout) if hidden_channels is None and dropout else None
        self.classifier = layers[0] if len(layers) == 1 else nn.Sequential(*layers)

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        """Classify (B, C, H, W); returns (B, K)."""
        pooled_BC = feature_BCHW.mean((2, 3))
        if self.dropout is not None:
            pooled_BC = self.dropout(pooled_BC)
        logits_BK: Tensor = self.classifier(pooled_BC)
        return logits_BK


class MergedExit(nn.Module):
    """Exit 4: both branches, and the transferred logits of exit 2, after a BatchNorm.

    Args:
        feature_channels: Channels of x_4.
        latent_channels: Channels of z'_4.
        num_classes: Classes.
        fkt_channels: Channels of the transferred logits; ``None`` for no transfer.
        hidden_channels: Hidden width of a two-layer head (MobileNet-v3); ``None`` for a single Linear.
        dropout: Dropout within the two-layer head.
    """

    def __init__(
        self,
        feature_channels: int,
        latent_channels: int,
        num_classes: int,
        fkt_channels: int | None = None,
        hidden_channels: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.fkt = None if fkt_channels is None else ForwardKnowledgeTransfer(num_classes, fkt_channels)
        channels = feature_channels + latent_channels + (fkt_channels or 0)
        self.classifier = nn.Sequential(nn.BatchNorm1d(channels), *_classifier(channels, hidden_channels, num_classes, dropout))

    def forward(self, feature_BCHW: Tensor, latent_BNC: Tensor, carry_BK: Tensor | None) -> Tensor:
        """Classify x_4 (B, C, H, W) and z'_4 (B, N, C') and exit 2's logits (B, K); returns (B, K)."""
        parts = [feature_BCHW.mean((2, 3)), latent_BNC.mean(1)]
        if self.fkt is not None:
            parts.append(self.fkt(carry_BK))
        logits_BK: Tensor = self.classifier(torch.cat(parts, 1))
        return logits_BK


class ExitHeads(nn.ModuleList):
    """The four exits of a network.

    Args:
        channels: Channels of x_0 .. x_4.
        num_classes: Classes.
        fkt: Whether exits 2 and 4 receive the logits of exits 1 and 2.
        hidden_channels: See :class:`FeatureExit` and :class:`MergedExit`.
        dropout: Dropout of the feature head, and of every two-layer head.
    """

    def __init__(
        self, channels: tuple[int, ...], num_classes: int, fkt: bool = True, hidden_channels: int | None = None, dropout: float = 0.0
    ) -> None:
        fkt_channels = channels[3] if fkt else None
        super().__init__(
            [
                LatentExit(channels[2], num_classes),
                LatentExit(channels[3], num_classes, fkt_channels),
                FeatureExit(channels[4], num_classes, hidden_channels, dropout),
                MergedExit(channels[4], channels[3], num_classes, fkt_channels, hidden_channels, dropout),
            ]
        )
        self.num_classes = num_classes
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
