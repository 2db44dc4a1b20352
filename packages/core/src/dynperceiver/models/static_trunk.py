"""The backbone-only baseline: the CNN with its classifier and nothing else, which a Dyn-Perceiver is compared with.

Shape suffixes: B rows, C channels, H/W feature size, K classes.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dynperceiver_runtime import UserError

from ..feature_branches import FeatureBranch, build_feature_branch
from ..registry import MODELS
from .exits import FeatureExit, init_classifiers
from .variant_check import check_same_variant

__all__ = ['StaticTrunk', 'build_static_trunk']


class StaticTrunk(nn.Module):
    """The backbone-only baseline: a CNN with its own classifier, the same that a Dyn-Perceiver has as exit 3.

    Args:
        feature_branch: The CNN.
        exit_head: Its classifier.
        num_classes: Classes.
    """

    num_frames = 1

    def __init__(self, feature_branch: FeatureBranch, exit_head: FeatureExit, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.feature_branch = feature_branch
        self.exits = nn.ModuleList([exit_head])

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, ...]:
        """Classify images of shape (B, 3, H, W); returns logits (B, K) as the only exit's."""
        (feature_BCHW,) = self.feature_branch.pyramid(images_BCHW, (self.feature_branch.num_stages,))
        return (self.exits[0](feature_BCHW),)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        check_same_variant(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


def build_static_trunk(
    feature_branch: str,
    *,
    width: float = 1.0,
    num_classes: int = 1000,
    dropout: float | None = None,
    drop_path: float = 0.0,
    frozen_stages: int = -1,
) -> StaticTrunk:
    """Build a backbone-only baseline, a CNN with its classifier.

    Args:
        feature_branch: Name of the CNN; see :data:`dynperceiver.feature_branches.FEATURE_BRANCHES`.
        width: Channel multiplier of the CNN (ResNet, MobileNet-v3, EfficientNet-Lite).
        num_classes: Classes.
        dropout: Dropout before the last Linear; ``None`` is that of the variant (none, or for EfficientNet-Lite 0.2 or 0.3).
        drop_path: Largest stochastic-depth rate of the CNN.
        frozen_stages: Stages to keep as they are in training: 0 for the stem alone, n for the first n stages, too; -1 for none.

    Raises:
        UserError: For an unknown name or a number outside its rule; the message says the remedy.
    """
    if num_classes < 1:
        raise UserError(f'num_classes={num_classes}: pass the number of classes, at least 1')
    branch = build_feature_branch(feature_branch, width=width, drop_path=drop_path)
    branch.freeze_stages(frozen_stages)
    exit_head = FeatureExit(branch.channels[4], num_classes, branch.head_channels, branch.dropout if dropout is None else dropout)
    init_classifiers(exit_head)
    return StaticTrunk(branch, exit_head, num_classes)


MODELS.register_module(name='StaticTrunk', module=build_static_trunk)
