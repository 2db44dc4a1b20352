"""The early-exit network as an image classifier.

Shape suffixes: B images, C channels, H/W pixels, K classes, E exits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor

from dynperceiver.losses import batch_accuracies

from ..registry import MODELS
from ..structures import ClsDataSample
from .data_preprocessor import check_labels, labels_of

__all__ = ['DynPerceiverClassifier']


@MODELS.register_module()
class DynPerceiverClassifier(BaseModel):
    """Classifier whose backbone brings its own exits (paper section 3): a Dyn-Perceiver, or a static trunk to measure it against.

    Args:
        backbone: Config of the network, ``type='dynperceiver.DynPerceiver'`` or ``'dynperceiver.StaticTrunk'``.
        loss: Config of the loss over all exits; default ``dict(type='dynperceiver.MultiExitLoss')``, the reference recipe.
        topk: Training accuracies to log per exit.
        data_preprocessor: See :class:`ClsDataPreprocessor`.
        init_cfg: MMEngine initialisation, for example ``dict(type='dynperceiver.ImageCheckpoint', checkpoint=PATH)``.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        loss: dict[str, Any] | None = None,
        topk: Sequence[int] = (1, 5),
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        preprocessor = MODELS.build(data_preprocessor or dict(type='dynperceiver_cls.ClsDataPreprocessor'))
        super().__init__(data_preprocessor=preprocessor, init_cfg=init_cfg)
        self.backbone = MODELS.build(backbone)
        self.loss_module = MODELS.build(loss or dict(type='dynperceiver.MultiExitLoss'))
        self.topk = tuple(topk)

    def forward(
        self,
        inputs: Tensor,
        data_samples: Sequence[ClsDataSample] | None = None,
        mode: str = 'tensor',
        targets: Tensor | None = None,
    ) -> Any:
        """Run the network as MMEngine's runner asks for.

        Args:
            inputs: Normalised images, shape (B, 3, H, W).
            data_samples: One per image; ``'loss'`` needs their labels.
            mode: ``'loss'``, ``'predict'`` or ``'tensor'``.
            targets: Class probabilities (B, K) in place of the labels, where images were mixed.

        Returns:
            ``'tensor'``: logits of all exits, each (B, K). ``'loss'``: loss terms and accuracies of the batch. ``'predict'``: the data
            samples with ``exit_scores`` (E, K), and of the last exit ``pred_score`` (K,) and ``pred_label``.

        Raises:
            ValueError: For another mode, or a label that is missing or no class of the model.
        """
        if mode == 'tensor':
            return self.backbone(inputs)
        if mode == 'loss':
            return self.loss(inputs, data_samples or [], targets)
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        raise ValueError(f"mode={mode!r}: choose 'loss', 'predict' or 'tensor'")

    def loss(self, inputs: Tensor, data_samples: Sequence[ClsDataSample], targets: Tensor | None = None) -> dict[str, Tensor]:
        """Loss terms, and the batch's accuracy per exit."""
        num_classes = self.backbone.num_classes
        if targets is None:
            labels = labels_of(data_samples)
            check_labels(labels, num_classes, 'model.backbone.num_classes')
            targets = labels.to(inputs.device)
        elif targets.shape[1] != num_classes:
            raise ValueError(
                f'images are mixed with targets of {targets.shape[1]} classes, but the model has {num_classes}; set '
                'model.data_preprocessor.mixing.num_classes and model.backbone.num_classes to that of the data set'
            )
        logits = self.backbone(inputs)
        return {**self.loss_module(logits, targets), **batch_accuracies(logits, targets, self.topk)}

    @torch.no_grad()
    def predict(self, inputs: Tensor, data_samples: Sequence[ClsDataSample] | None = None) -> list[ClsDataSample]:
        """Softmax scores of every exit, on the data samples."""
        scores_BEK = torch.stack(self.backbone(inputs), 1).float().softmax(-1)
        labels = scores_BEK[:, -1].argmax(1).tolist()
        samples = [ClsDataSample() for _ in labels] if data_samples is None else list(data_samples)
        for sample, scores_EK, label in zip(samples, scores_BEK, labels, strict=True):
            sample.set_field(scores_EK, 'exit_scores')
            sample.set_field(scores_EK[-1], 'pred_score')
            sample.set_field(label, 'pred_label')
        return samples
