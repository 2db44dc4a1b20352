"""The classifiers, in the order in which they become available (paper section 3.3).

Each says which fields of a :class:`~dynperceiver.structures.NetworkState` it ``reads``, and whether it ``hands_on`` its logits to later
exits, which take them by forward knowledge transfer. All of them work per row (image or frame); averaging over the frames of a clip is
the network's business.

Shape suffixes: B rows, C channels, H/W feature size, N latent tokens, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..layers import IMAGE_LAYOUT, MapLayout

__all__ = [
    'EARLY_EXITS',
    'EarlyExit',
    'EarlyFeatureExit',
    'ExitHeads',
    'FeatureExit',
    'ForwardKnowledgeTransfer',
    'JoinedExit',
    'LatentExit',
    'MergedExit',
    'ProbeExit',
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


class JoinedExit(nn.Module):
    """Early exit of the lean form: the mean of the normalised code, joined by the batch-normalised mean of the map that it read last.

    The maps between the blocks of fast CNNs are narrow and linear, so that their mean says little. With ``lift_channels`` the exit lifts
    the pixels by a 1x1 convolution and ReLU before it takes their mean.

    Args:
        latent_channels: Channels of the code.
        feature_channels: Channels of the map.
        num_classes: Classes.
        dropout: Dropout before the Linear.
        layout: Order of the map's axes.
        lift_channels: Channels to which pixels (or tokens) are lifted; ``None`` takes the map as it is.
    """

    reads = ('latent_BNC', 'feature_BCHW')
    hands_on = False

    def __init__(
        self,
        latent_channels: int,
        feature_channels: int,
        num_classes: int,
        dropout: float = 0.0,
        layout: MapLayout = IMAGE_LAYOUT,
        lift_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.lift: nn.Conv2d | nn.Linear | None = None
        if lift_channels is not None:
            is_image = layout == IMAGE_LAYOUT  # whose convolution stays in the layout of those before
            self.lift = nn.Conv2d(feature_channels, lift_channels, 1) if is_image else nn.Linear(feature_channels, lift_channels)
        self.latent_norm = nn.LayerNorm(latent_channels)
        self.feature_norm = nn.BatchNorm1d(lift_channels or feature_channels)
        self.dropout = nn.Dropout(dropout)
        self.joined_classifier = nn.Linear(latent_channels + (lift_channels or feature_channels), num_classes)
        if self.lift is not None:
            nn.init.kaiming_normal_(self.lift.weight, nonlinearity='relu')
            nn.init.zeros_(self.lift.bias)  # type: ignore[arg-type]

    def forward(self, latent_BNC: Tensor, feature: Tensor) -> Tensor:
        """Classify a code (B, N, C) and a map; returns (B, K)."""
        pooled_BC = torch.cat((self.latent_norm(latent_BNC).mean(1), self.feature_norm(self._mean(feature))), 1)
        logits_BK: Tensor = self.joined_classifier(self.dropout(pooled_BC))
        return logits_BK

    def _mean(self, feature: Tensor) -> Tensor:
        if self.lift is None:
            return self.layout.mean(feature)
        if isinstance(self.lift, nn.Conv2d):
            return torch.relu(self.lift(feature)).mean((2, 3))
        return torch.relu(self.lift(self.layout.channels_first(feature).flatten(2).transpose(1, 2))).mean(1)


class ProbeExit(nn.Module):
    """Early exit on the map alone, to compare others with: a linear or two-layer probe on its batch-normalised mean.

    Args:
        feature_channels: Channels of the map.
        num_classes: Classes.
        hidden_channels: Width of the layer between; ``None`` for a linear probe.
        dropout: Dropout before the last Linear.
        layout: Order of the map's axes.
    """

    reads = ('feature_BCHW',)
    hands_on = False

    def __init__(
        self,
        feature_channels: int,
        num_classes: int,
        hidden_channels: int | None = None,
        dropout: float = 0.0,
        layout: MapLayout = IMAGE_LAYOUT,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.feature_norm = nn.BatchNorm1d(feature_channels)
        layers = [] if hidden_channels is None else [nn.Linear(feature_channels, hidden_channels), nn.GELU()]
        self.hidden = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.probe_classifier = nn.Linear(hidden_channels or feature_channels, num_classes)

    def forward(self, feature: Tensor) -> Tensor:
        """Classify a map; returns (B, K)."""
        logits_BK: Tensor = self.probe_classifier(self.dropout(self.hidden(self.feature_norm(self.layout.mean(feature)))))
        return logits_BK


EARLY_EXITS: tuple[str, ...] = ('latent', 'feature', 'joined', 'probe')
"""What early exits may classify: the latent code (the paper's network), the feature map (its Table 2), both (the lean form), or the map
by a probe that no latent code is needed for (to compare with)."""


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
    """The exits of a network: early ones, the CNN's own, and behind it one that joins both branches. The default is those of the paper's
    network, which are four.

    Args:
        channels: Channels of x_0 .. x_4, or of as many maps as the CNN has.
        num_classes: Classes.
        fkt: Whether the early exits, and the merged one, receive the logits of the early exit before.
        hidden_channels: See :class:`FeatureExit` and :class:`MergedExit`.
        dropout: Dropout of the feature head, and of every two-layer head.
        early_exits: What the early exits classify, see :data:`EARLY_EXITS`.
        joined_dropout: Dropout of joined exits and probes.
        probe_channels: Hidden width of probes; ``None`` for linear ones.
        lift_channels: Of joined exits, see :class:`JoinedExit`.
        exit_stages: Stages (from 1) of the latent code that an early exit follows; stage i reads x_{i-1}.
        widths: Channels of the code in each stage. Default: those of the maps.
        merges: Whether there is a merged exit.
        layouts: Layouts of the maps. Default: all BCHW.
        trunk_exit: The CNN's own classifier, which keeps its weights. Default: a new :class:`FeatureExit`.

    Attributes:
        trunk_exit_index: Index, from 0, of the exit that is the CNN's own classifier: with it alone, the CNN is the baseline of the
            network.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        fkt: bool = True,
        hidden_channels: int | None = None,
        dropout: float = 0.0,
        early_exits: str = 'latent',
        *,
        joined_dropout: float = 0.0,
        probe_channels: int | None = None,
        lift_channels: int | None = None,
        exit_stages: Sequence[int] = (3, 4),
        widths: Sequence[int] | None = None,
        merges: bool = True,
        layouts: Sequence[MapLayout] | None = None,
        trunk_exit: nn.Module | None = None,
    ) -> None:
        widths = channels if widths is None else widths
        layouts = (IMAGE_LAYOUT,) * len(channels) if layouts is None else layouts
        fkt_channels = channels[exit_stages[-1] - 1] if fkt else None
        heads: list[nn.Module] = []
        for stage in exit_stages:
            width, map_channels, transferred = widths[stage - 1], channels[stage - 1], fkt_channels if heads else None
            if early_exits == 'joined':
                heads.append(JoinedExit(width, map_channels, num_classes, joined_dropout, layouts[stage - 1], lift_channels))
            elif early_exits == 'probe':
                heads.append(ProbeExit(map_channels, num_classes, probe_channels, joined_dropout, layouts[stage - 1]))
            elif early_exits == 'feature':
                heads.append(EarlyFeatureExit(map_channels, num_classes, transferred))
            else:
                heads.append(LatentExit(width, num_classes, transferred))
        trunk_exit_index = len(heads)
        heads.append(FeatureExit(channels[-1], num_classes, hidden_channels, dropout) if trunk_exit is None else nn.Identity())
        if merges:
            heads.append(MergedExit(channels[-1], widths[len(channels) - 2], num_classes, fkt_channels, hidden_channels, dropout))
        super().__init__(heads)
        self.num_classes = num_classes
        self.trunk_exit_index = trunk_exit_index
        init_classifiers(self)
        if trunk_exit is not None:
            self[trunk_exit_index] = trunk_exit


def init_classifiers(heads: nn.Module) -> None:
    """Initialise the Linear layers of heads: weights truncated normal(0, 0.02), biases 0."""
    for module in heads.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
