"""Each clip of a training batch forwards and backwards.

Shape suffixes: N clips, T frames per clip, C/H/W image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from mmaction.structures import ActionDataSample
from torch import Tensor

from dynperceiver_runtime import UsageError

from ..registry import MODELS

__all__ = ['BackwardCopies']


@MODELS.register_module()
class BackwardCopies:
    """Adds to a training batch every clip played backwards, labelled as the action that it then shows.

    The two differ in nothing but the direction of time, so what else a clip shows, its objects, scene and light, cancels out of the
    gradient: a network from random weights finds motion in fewer steps, where motion tells the classes apart. A batch of n decoded clips
    becomes one of 2n. :class:`~dynperceiver_action.transforms.TemporalFlip` plays single clips backwards at random instead.

    It is made for the ``blending`` of mmaction2's ``ActionDataPreprocessor``, which applies it in training only, on frames in time order.

    Args:
        label_map: Label to label of the clip backwards; what is not in it keeps its label.
    """

    def __init__(self, label_map: Mapping[int, int] | None = None) -> None:
        self.label_map = dict(label_map or {})

    def __call__(self, inputs_NTCHW: Tensor, data_samples: Sequence[ActionDataSample]) -> tuple[Tensor, list[ActionDataSample]]:
        """The batch, and behind it the same clips backwards.

        Args:
            inputs_NTCHW: Shape (N, T, C, H, W), one clip per sample.
            data_samples: With ``gt_label``, a class number.

        Returns:
            Shape (2N, T, C, H, W), and 2N data samples; those given are not changed.

        Raises:
            UsageError: If the frames have no time axis of their own, or a label is no class number.
        """
        if inputs_NTCHW.ndim != 5:
            raise UsageError(
                f'BackwardCopies got inputs of shape {tuple(inputs_NTCHW.shape)}, but expects (clips, frames, channels, height, width); '
                "end the training pipeline with FormatShape(input_format='NCHW')"
            )
        copies = []
        for sample in data_samples:
            if sample.gt_label.numel() != 1:
                raise UsageError(
                    f'BackwardCopies got a label of {sample.gt_label.numel()} numbers, but needs one class number per clip; leave '
                    'multi_class and other blending out'
                )
            label = int(sample.gt_label)
            copy = sample.new()
            copy.set_gt_label(self.label_map.get(label, label))
            copies.append(copy.to(sample.gt_label.device))
        return torch.cat([inputs_NTCHW, inputs_NTCHW.flip(1)]), [*data_samples, *copies]

    def __repr__(self) -> str:
        """The arguments, for logs."""
        return f'{type(self).__name__}(label_map={self.label_map})'
