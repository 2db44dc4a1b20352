"""The classifiers, in the order in which they become available (paper section 3.3).

Each says which fields of a :class:`~dynperceiver.structures.NetworkState` it ``reads``, and whether it ``hands_on`` its logits to later
exits, which take them by forward knowledge transfer. All of them work per row (image or frame); averaging over the frames of a clip is
the network's business.

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
    reads: tuple[str, ...]
    hands_on = True

    def __init__(self, channels: int, num_classes: int, fkt_channels: int | None = None) -> None:
        super().__init__()
        self.fkt = None if fkt_channels is None else ForwardKnowledgeTransfer(num_classes, fkt_channels)
        self.add_module(self.classifier_name, nn.Linear(channels + (fkt_channels or 0), num_classes))

    def pool(self, code: Tensor) -> Tensor:
        """The vector (B, C) to classify, of a map or a latent code."""
        raise NotImplementedError(f'{type(self).__name__} does not say what it classifies; override pool()')

    def forward(self, code: Tensor, previous_logits_BK: Tensor | None) -> Tensor:
        """Classify a map (B, C, H, W) or a latent code (B, N, C), given the earlier logits (B, K) where knowledge is transferred."""
        pooled_BC = self.pool(code)
        if self.fkt is not None:
            pooled_BC = torch.cat((pooled_BC, self.fkt(previous_logits_BK)), 1)
        logits_BK: Tensor = self.get_submodule(self.classifier_name)(pooled_BC)
        return logits_BK


class LatentExit(EarlyExit):
    """Early exit in the classification branch: the mean latent token."""

    reads = ('latent_BNC', 'previous_logits_BK')

    def pool(self, code: Tensor) -> Tensor:
        """Mean over the tokens of a latent code (B, N, C)."""
        return code.mean(1)


class EarlyFeatureExit(EarlyExit):
    """The same early exit in the feature branch, which the paper compares with (Table 2): the average-pooled feature map.

    Its classifier has a name of its own, so that no checkpoint is loaded into a network whose exits stand elsewhere.
    """

    classifier_name = 'feature_classifier'
    reads = ('feature_BCHW', 'previous_logits_BK')

    def pool(self, code: Tensor) -> Tensor:
        """Mean over the pixels of a map (B, C, H, W)."""
        return code.mean((2, 3))


EARLY_EXITS: dict[str, type[EarlyExit]] = {'latent': LatentExit, 'feature': EarlyFeatureExit}


class FeatureExit(nn.Module):
    """Exit 3: the CNN's own classifier on the average-pooled feature map before the last latent-to-feature attention.

    Args:
        channels: Channels of the map.
        num_classes: Classes.
        hidden_channels: Hidden width of a two-layer head (MobileNet-v3); ``None`` for a single Linear.
        dropout: Dropout before the last Linear.
    """

    reads = ('feature_BCHW',)
    hands_on = False

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

    reads = ('feature_BCHW', 'latent_BNC', 'previous_logits_BK')
    hands_on = False

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

    def forward(self, feature_BCHW: Tensor, latent_BNC: Tensor, previous_logits_BK: Tensor | None) -> Tensor:
        """Classify x_4 (B, C, H, W) and z'_4 (B, N, C') and exit 2's logits (B, K); returns (B, K)."""
        parts = [feature_BCHW.mean((2, 3)), latent_BNC.mean(1)]
        if self.fkt is not None:
            parts.append(self.fkt(previous_logits_BK))
        logits_BK: Tensor = self.classifier(torch.cat(parts, 1))
        return logits_BK


class ExitHeads(nn.ModuleList):
    """The exits of the paper's network, which are four.

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

    @property
    def trunk_exit_index(self) -> int:
        """Index, from 0, of the exit that is the CNN's own classifier: with it alone, the CNN is the baseline of the network."""
        return next(index for index, exit_head in enumerate(self) if isinstance(exit_head, FeatureExit))


def init_classifiers(heads: nn.Module) -> None:
    """Initialise the Linear layers of heads: weights truncated normal(0, 0.02), biases 0."""
    for module in heads.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
