"""What goes with an image through pipeline, model and metric."""

from __future__ import annotations

from mmengine.structures import BaseDataElement

__all__ = ['ClsDataSample']


class ClsDataSample(BaseDataElement):
    """An image's label and predictions.

    Data fields: ``gt_label`` (int; class number, absent for an unlabelled image), after prediction ``exit_scores`` (E, K), softmax
    scores of every exit, and of the last exit ``pred_score`` (K,) and ``pred_label`` (int). Meta fields: ``img_path``, ``sample_idx``,
    ``ori_shape`` (height, width in pixels of the image file).
    """
