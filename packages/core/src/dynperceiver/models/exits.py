"""The four classifiers, in the order in which they become available (paper section 3.3).

All of them work per row (image or frame); averaging over the frames of a clip is the network's business.

Shape suffixes: B rows, C channels, H/W feature size, N latent tokens, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = [
    'EARLY_EXITS',
    'EarlyExit',
    'EarlyFeatureExit',
    'ExitHeads',
    'FeatureExit',
    'ForwardKnowledgeTransfer',
    'LatentExit',
    'MergedExit',
    'init_classifiers',
]


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


class EarlyExit(nn.Module):
    """Exits 1 and 2: Linear on a pooled vector, joined by the transferred logits of the exit before, if any.

    Args:
        channels: Channels of the vector.
        num_classes: Classes.
        fkt_channels: Channels of the transferred logits; ``None`` for no transfer.
    """

    classifier_name = 'classifier'

    def __init__(self, channels: int, num_classes: int, fkt_channels: int | None = None) -> None:
        super().__init__()
        self.fkt = None if fkt_channels is None else ForwardKnowledgeTransfer(num_classes, fkt_channels)
        self.add_module(self.classifier_name, nn.Linear(channels + (fkt_channels or 0), num_classes))

    def pool(self, feature_BCHW: Tensor, latent_BNC: Tensor) -> Tensor:
        """The vector (B, C) to classify."""
        raise NotImplementedError

    def forward(self, feature_BCHW: Tensor, latent_BNC: Tensor, carry_BK: Tensor | None) -> Tensor:
        """Classify the newest map (B, C, H, W) or latent code (B, N, C), given the earlier logits (B, K) where knowledge is transferred."""
        pooled_BC = self.pool(feature_BCHW, latent_BNC)
        if self.fkt is not None:
            pooled_BC = torch.cat((pooled_BC, self.fkt(carry_BK)), 1)
        logits_BK: Tensor = self.get_submodule(self.classifier_name)(pooled_BC)
        return logits_BK


class LatentExit(EarlyExit):
    """Early exit in the classification branch: the mean latent token."""

    def pool(self, feature_BCHW: Tensor, latent_BNC: Tensor) -> Tensor:
        """Mean over the tokens."""
        return latent_BNC.mean(1)


class EarlyFeatureExit(EarlyExit):
    """The same early exit in the feature branch, which the paper compares with (Table 2): the average-pooled feature map.

    Its classifier has a name of its own, so that no checkpoint is loaded into a network whose exits stand elsewhere.
    """

    classifier_name = 'feature_classifier'

    def pool(self, feature_BCHW: Tensor, latent_BNC: Tensor) -> Tensor:
        """Mean over the pixels."""
        return feature_BCHW.mean((2, 3))


EARLY_EXITS: dict[str, type[EarlyExit]] = {'latent': LatentExit, 'feature': EarlyFeatureExit}


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
        early_exits: Branch of exits 1 and 2: ``'latent'`` (the paper's network) or ``'feature'`` (its Table 2).
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        num_classes: int,
        fkt: bool = True,
        hidden_channels: int | None = None,
        dropout: float = 0.0,
        early_exits: str = 'latent',
    ) -> None:
        fkt_channels = channels[3] if fkt else None
        early_exit = EARLY_EXITS[early_exits]
        # x_2 and x_3 have the channels of the latent code in stages 3 and 4, so that the exits of either branch are of one size.
        super().__init__(
            [
                early_exit(channels[2], num_classes),
                early_exit(channels[3], num_classes, fkt_channels),
                FeatureExit(channels[4], num_classes, hidden_channels, dropout),
                MergedExit(channels[4], channels[3], num_classes, fkt_channels, hidden_channels, dropout),
            ]
        )
        self.num_classes = num_classes
        init_classifiers(self)


def init_classifiers(heads: nn.Module) -> None:
    """Initialise the Linear layers of heads: weights truncated normal(0, 0.02), biases 0."""
    for module in heads.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
