"""The early-exit network as a recognizer of mmaction2.

Shape suffixes: N videos, V views per video (crops times sampled clips), T frames per view, C/H/W image, K classes, E exits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmaction.models.recognizers.base import BaseRecognizer
from mmaction.structures import ActionDataSample
from torch import Tensor

from dynperceiver.inference import DynamicRunner
from dynperceiver.losses import batch_accuracies
from dynperceiver_runtime import UserError
from dynperceiver_runtime.views import average_logits, check_average_views

from ..registry import MODELS

__all__ = ['EarlyExitRecognizer']


@MODELS.register_module()
class EarlyExitRecognizer(BaseRecognizer):
    """Recognizer whose backbone is a Dyn-Perceiver with its exits; there is no other head.

    A clip's frames run as images; every exit averages its logits over them (paper section 4.3). Where a video gives several views
    (test crops, sampled clips), they are averaged at each exit.

    Args:
        backbone: Config of the network, ``type='dynperceiver.DynPerceiver'`` with ``num_frames`` set to the frames per clip.
        loss: Config of the loss over all exits.
        average_views: ``'prob'`` averages softmax probabilities over views, ``'score'`` logits.
        topk: Training accuracies to log per exit.
        train_cfg: Kept for mmaction2; unused.
        test_cfg: Kept for mmaction2; unused.
        data_preprocessor: See mmaction2's ``ActionDataPreprocessor``.
        init_cfg: MMEngine initialisation, for example ``dict(type='dynperceiver.ImageCheckpoint', checkpoint=PATH)``.

    Attributes:
        dynamic_runner: What predictions are made with where videos are to leave early; ``None`` runs all exits. See
            :class:`~dynperceiver.hooks.ExitPolicyHook`.

    Raises:
        UserError: If ``average_views`` is neither of the two.
    """

    dynamic_runner: DynamicRunner | None = None

    def __init__(
        self,
        backbone: dict[str, Any],
        loss: dict[str, Any] | None = None,
        average_views: str = 'prob',
        topk: Sequence[int] = (1, 5),
        train_cfg: dict[str, Any] | None = None,
        test_cfg: dict[str, Any] | None = None,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        if data_preprocessor is None:
            data_preprocessor = dict(type='mmaction.ActionDataPreprocessor')
        super().__init__(backbone, train_cfg=train_cfg, test_cfg=test_cfg, data_preprocessor=data_preprocessor)
        self.init_cfg = init_cfg
        self.loss_module = MODELS.build(loss or dict(type='dynperceiver.MultiExitLoss'))
        self.average_views = check_average_views(average_views)
        self.topk = tuple(topk)

    def extract_feat(self, inputs: Tensor, stage: str = 'head', **kwargs: Any) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
        """Logits of all exits.

        Args:
            inputs: Shape (N, V*T, C, H, W).
            stage: Kept for mmaction2's tools; the network has one stage.
            kwargs: Likewise.

        Returns:
            Logits of shape (N*V, K), one per exit in their order, and an empty dict.

        Raises:
            UserError: If the frames of a video are no whole number of clips.
        """
        self._num_views(inputs)
        return self.backbone(inputs.flatten(0, 1)), {}

    def _num_views(self, inputs: Tensor) -> int:
        frames, num_frames = inputs.shape[1], self.backbone.num_frames
        if frames % num_frames:
            raise UserError(
                f'the pipeline gives {frames} frames per video, but a clip of the model has num_frames={num_frames}, and a video must be a '
                'whole number of clips; sample that many frames (SampleFrames: clip_len * num_clips), or build the model with num_frames='
                f'{frames}'
            )
        return int(frames // num_frames)

    def loss(self, inputs: Tensor, data_samples: Sequence[ActionDataSample], **kwargs: Any) -> dict[str, Tensor]:
        """Loss terms, and the batch's accuracy per exit.

        Args:
            inputs: Shape (N, T, C, H, W).
            data_samples: With ``gt_label``: a class number, or class probabilities after batch blending.

        Raises:
            UserError: If a video gives several views: training takes one clip per video.
        """
        logits, _ = self.extract_feat(inputs)
        labels = torch.stack([sample.gt_label for sample in data_samples])
        if logits[0].shape[0] != labels.shape[0]:
            raise UserError(
                f'{labels.shape[0]} videos gave {logits[0].shape[0]} clips of {self.backbone.num_frames} frames; training takes one clip '
                'per video: set num_frames of the model to the frames that the training pipeline samples'
            )
        target = labels.squeeze(1) if labels.shape[1] == 1 else labels
        return {**self.loss_module(logits, target), **batch_accuracies(logits, target, self.topk)}

    def predict(self, inputs: Tensor, data_samples: Sequence[ActionDataSample], **kwargs: Any) -> list[ActionDataSample]:
        """Scores on the data samples.

        Args:
            inputs: Shape (N, V*T, C, H, W).
            data_samples: One per video.

        Returns:
            The data samples with ``exit_scores`` (E, K), and for mmaction2's tools ``pred_score`` (K,) and ``pred_label`` of the last
            exit: probabilities where ``average_views='prob'``, otherwise logits. With :attr:`dynamic_runner` the last two are of the
            exit where the video left, all its views together. That exit's index is in ``exit_index`` (from 0: exit 1 has index 0), the
            policy's score there in ``exit_confidence``, and there are no ``exit_scores``.

        Raises:
            UserError: If the frames of a video are no whole number of clips.
        """
        views = self._num_views(inputs)
        if self.dynamic_runner is None:
            result, (logits, _) = None, self.extract_feat(inputs)
            logits_ENVK = torch.stack(logits).detach().float().cpu().unflatten(1, (-1, views)).numpy()
            averaged = np.stack([average_logits(logits_NVK, self.average_views) for logits_NVK in logits_ENVK], 1)
        else:
            result = self.dynamic_runner(inputs.flatten(0, 1), views=views)
            averaged = np.asarray(result.logits)[:, None]
        scores_NEK = torch.from_numpy(averaged)
        if self.average_views == 'prob':
            scores_NEK = scores_NEK.softmax(-1)
        for number, (sample, scores_EK) in enumerate(zip(data_samples, scores_NEK, strict=True)):
            sample.set_pred_score(scores_EK[-1])
            sample.set_pred_label(scores_EK[-1].argmax(0, keepdim=True))
            if result is None:
                sample.set_field(scores_EK, 'exit_scores')
            else:
                sample.set_field(int(result.exit_index[number]), 'exit_index')
                sample.set_field(float(result.confidence[number]), 'exit_confidence')
        return list(data_samples)
