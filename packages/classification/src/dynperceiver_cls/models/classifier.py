"""The early-exit network as an image classifier.

Shape suffixes: B images, C channels, H/W pixels, K classes, E exits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor

from dynperceiver.inference import DynamicRunner
from dynperceiver.losses import batch_accuracies
from dynperceiver_runtime import UserError

from ..registry import MODELS
from ..structures import ClsDataSample
from .data_preprocessor import check_labels, labels_of

__all__ = ['DynPerceiverClassifier']


@MODELS.register_module()
class DynPerceiverClassifier(BaseModel):
    """Classifier whose backbone brings its own exits (paper section 3): a Dyn-Perceiver, or a backbone-only baseline to measure it against.

    Args:
        backbone: Config of the network, ``type='dynperceiver.DynPerceiver'`` or ``'dynperceiver.StaticTrunk'``.
        loss: Config of the loss over all exits; default ``dict(type='dynperceiver.MultiExitLoss')``, the reference recipe.
        topk: Training accuracies to log per exit.
        data_preprocessor: See :class:`ClsDataPreprocessor`.
        init_cfg: MMEngine initialisation, for example ``dict(type='dynperceiver.ImageCheckpoint', checkpoint=PATH)``.

    Attributes:
        dynamic_runner: What predictions are made with where samples are to leave early; ``None`` runs all exits. See
            :class:`~dynperceiver.hooks.ExitPolicyHook`.
    """

    dynamic_runner: DynamicRunner | None = None

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
            samples with the fields of :meth:`predict`.

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
            raise UserError(
                f'images are mixed with targets of {targets.shape[1]} classes, but the model has {num_classes}; set '
                'model.data_preprocessor.mixing.num_classes and model.backbone.num_classes to that of the data set'
            )
        logits = self.backbone(inputs)
        return {**self.loss_module(logits, targets), **batch_accuracies(logits, targets, self.topk)}

    @torch.no_grad()
    def predict(self, inputs: Tensor, data_samples: Sequence[ClsDataSample] | None = None) -> list[ClsDataSample]:
        """Softmax scores on the data samples.

        Args:
            inputs: Normalised images, shape (B, 3, H, W).
            data_samples: One per image; default new ones.

        Returns:
            The data samples with ``exit_scores`` (E, K), and of the last exit ``pred_score`` (K,) and ``pred_label``. With
            :attr:`dynamic_runner` the last two are of the exit where the sample left. That exit's index is in ``exit_index`` (from 0:
            exit 1 has index 0), the policy's score there in ``exit_confidence``, and there are no ``exit_scores``.
        """
        result = None if self.dynamic_runner is None else self.dynamic_runner(inputs)
        logits = self.backbone(inputs) if result is None else (torch.as_tensor(result.logits),)
        scores_BEK = torch.stack(tuple(logits), 1).float().softmax(-1)
        labels = scores_BEK[:, -1].argmax(1).tolist()
        samples = [ClsDataSample() for _ in labels] if data_samples is None else list(data_samples)
        for number, (sample, scores_EK, label) in enumerate(zip(samples, scores_BEK, labels, strict=True)):
            sample.set_field(scores_EK[-1], 'pred_score')
            sample.set_field(label, 'pred_label')
            if result is None:
                sample.set_field(scores_EK, 'exit_scores')
            else:
                sample.set_field(int(result.exit_index[number]), 'exit_index')
                sample.set_field(float(result.confidence[number]), 'exit_confidence')
        return samples
