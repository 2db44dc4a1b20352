"""Samples to batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dynperceiver_runtime import UserError

from ..registry import FUNCTIONS

__all__ = ['stack_samples']


@FUNCTIONS.register_module()
def stack_samples(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Make a batch of what :class:`~dynperceiver_cls.transforms.PackInputs` returns.

    Args:
        samples: Each with ``inputs``, a tensor image_CHW, and ``data_samples``, its data sample.

    Returns:
        ``inputs``, a tensor images_BCHW whose memory is in channels-last order, and ``data_samples``, a list.

    Raises:
        UserError: If the images differ in size.
    """
    images, data_samples = [sample['inputs'] for sample in samples], [sample['data_samples'] for sample in samples]
    first = tuple(images[0].shape)
    odd = next((i for i, image in enumerate(images) if tuple(image.shape) != first), None)
    if odd is not None:
        paths = [data_samples[i].get('img_path', f'sample {i}') for i in (0, odd)]
        raise UserError(
            f'images of a batch differ in shape (channels, rows, columns): {first} of {paths[0]}, but {tuple(images[odd].shape)} of '
            f'{paths[1]}; give all the same size at the end of the pipeline by CenterCrop or Resize(size=224), say, or set batch_size=1.'
        )
    # Stacked in the order of their memory: torch would otherwise sort the channels apart, which takes longer than the copy.
    images_BHWC = torch.stack([image.permute(1, 2, 0) for image in images])
    return {'inputs': images_BHWC.permute(0, 3, 1, 2), 'data_samples': data_samples}
