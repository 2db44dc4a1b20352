"""The end of a pipeline."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..registry import TRANSFORMS
from ..structures import ClsDataSample

__all__ = ['PackInputs']

_META_KEYS = ('img_path', 'sample_idx', 'ori_shape')


@TRANSFORMS.register_module()
class PackInputs:
    """Turn an image into a tensor, and what is known about it into a data sample.

    Required key: ``img``, a PIL RGB image. Optional keys: ``gt_label`` (class number), ``img_path``, ``sample_idx``, ``ori_shape``.

    The result has ``inputs``, a uint8 tensor image_CHW (3, H, W) whose memory is in the order of pixels (H, W, 3), and
    ``data_samples``, a :class:`~dynperceiver_cls.ClsDataSample`.
    """

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Pack the image."""
        sample = ClsDataSample(metainfo={key: results[key] for key in _META_KEYS if key in results})
        if 'gt_label' in results:
            sample.gt_label = int(results['gt_label'])
        return {'inputs': torch.from_numpy(np.array(results['img'])).permute(2, 0, 1), 'data_samples': sample}

    def __repr__(self) -> str:
        """The arguments, for logs."""
        return f'{type(self).__name__}()'
