"""From decoded images to what the network takes, with batch augmentation on the model's device.

Shape suffixes: B images, C channels, H/W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn

from dynperceiver_runtime import UserError

from ..registry import MODELS

__all__ = ['ClsDataPreprocessor', 'check_labels', 'labels_of']


def labels_of(data_samples: Sequence[Any], device: torch.device | str | None = None) -> Tensor:
    """Class numbers of data samples, shape (B,), int64.

    Raises:
        UserError: If a sample has no label.
    """
    missing = [sample for sample in data_samples if 'gt_label' not in sample]
    if missing:
        raise UserError(
            f'{missing[0].get("img_path", "an image")} has no gt_label; training and validation need labelled images, check the annotation '
            'file, or use predict for images without labels'
        )
    return torch.tensor([int(sample.gt_label) for sample in data_samples], device=device)


def check_labels(labels_B: Tensor, num_classes: int, setting: str) -> None:
    """Check class numbers while they are on the CPU; on a GPU the check would wait for the device.

    Args:
        labels_B: Class numbers.
        num_classes: How many there may be.
        setting: Where that is set, for the message.

    Raises:
        UserError: If one is negative or too large.
    """
    if len(labels_B) and not 0 <= int(labels_B.min()) <= int(labels_B.max()) < num_classes:
        raise UserError(
            f'labels of this batch run from {int(labels_B.min())} to {int(labels_B.max())}, but the model has {num_classes} classes; '
            f'set {setting} to that of the data set, or correct the labels'
        )


@MODELS.register_module()
class ClsDataPreprocessor(BaseDataPreprocessor):
    """Moves a batch to the device, normalises it, and in training augments it there.

    Images stay bytes until they are on the device. All work is done in channels-last memory, as the network takes it.

    Args:
        mean: Mean of the three colours (RGB, 0 to 255).
        std: Standard deviation of the three colours.
        before_norm: Modules that take and give images (B, 3, H, W) of float values from 0 to 255, in training only.
        after_norm: Likewise, after normalisation.
        mixing: Module that takes images and class numbers (B,) and gives images and class probabilities (B, K), in training only.
        non_blocking: See MMEngine's ``BaseDataPreprocessor``.

    Raises:
        UserError: If ``mean`` or ``std`` are not three numbers, or ``std`` is not positive.
    """

    def __init__(
        self,
        mean: Sequence[float] = (123.675, 116.28, 103.53),
        std: Sequence[float] = (58.395, 57.12, 57.375),
        before_norm: Sequence[dict[str, Any]] = (),
        after_norm: Sequence[dict[str, Any]] = (),
        mixing: dict[str, Any] | None = None,
        non_blocking: bool = True,
    ) -> None:
        super().__init__(non_blocking)
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise UserError(f'mean={tuple(mean)}, std={tuple(std)}: three numbers each are needed, for red, green and blue, std above 0')
        self.register_buffer('mean', torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)
        self.register_buffer('inverse_std', 1 / torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)
        self.before_norm = nn.ModuleList(MODELS.build(step) for step in before_norm)
        self.after_norm = nn.ModuleList(MODELS.build(step) for step in after_norm)
        self.mixing = None if mixing is None else MODELS.build(mixing)

    def forward(self, data: Mapping[str, Any], training: bool = False) -> dict[str, Any]:
        """Prepare a batch.

        Args:
            data: ``inputs``, images as bytes (B, 3, H, W) or a list of (3, H, W), and ``data_samples``, if any.
            training: Whether to augment.

        Returns:
            ``inputs``, float32 (B, 3, H, W), channels-last; ``data_samples``; and where images were mixed ``targets``, (B, K).

        Raises:
            UserError: If images in a list are of different sizes, or a label to mix is missing or no class.
        """
        data = self.cast_data(dict(data))
        images_BCHW, samples = self._stack(data['inputs']), data.get('data_samples')
        images_BCHW = images_BCHW.to(torch.float32, memory_format=torch.channels_last)
        if training:
            for augment in self.before_norm:
                images_BCHW = augment(images_BCHW)
        images_BCHW = (images_BCHW - self.mean).mul_(self.inverse_std)
        if not training:
            return dict(inputs=images_BCHW, data_samples=samples)
        for augment in self.after_norm:
            images_BCHW = augment(images_BCHW)
        if self.mixing is None or samples is None:
            return dict(inputs=images_BCHW, data_samples=samples)
        labels_B = labels_of(samples)
        if hasattr(self.mixing, 'num_classes'):
            settings = 'model.backbone.num_classes and model.data_preprocessor.mixing.num_classes'
            check_labels(labels_B, self.mixing.num_classes, settings)
        images_BCHW, targets_BK = self.mixing(images_BCHW, labels_B.to(images_BCHW.device))
        return dict(inputs=images_BCHW, data_samples=samples, targets=targets_BK)

    @staticmethod
    def _stack(images: Tensor | Sequence[Tensor]) -> Tensor:
        if isinstance(images, Tensor):
            return images
        sizes = sorted({tuple(image.shape) for image in images})
        if len(sizes) > 1:
            raise UserError(f'images of different shapes in a batch: {sizes[:4]}; let the pipeline end with a crop or resize to one size')
        return torch.stack(list(images))
