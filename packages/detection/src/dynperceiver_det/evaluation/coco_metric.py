"""COCO's figures as pycocotools gives them, for MMEngine's evaluator."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmdet.evaluation import CocoMetric as MMDetCocoMetric
from mmengine.logging import print_log

from dynperceiver_runtime import MissingFileError, UserError

from ..registry import METRICS
from .scoring import FIGURES, IOU_TYPES, score_detections

__all__ = ['CocoMetric']

FIXED = {
    'iou_thrs': 'IoU thresholds are 0.5 to 0.95',
    'metric_items': 'all twelve figures are reported',
    'use_mp_eval': 'pycocotools counts in one process',
}


@METRICS.register_module()
class CocoMetric(MMDetCocoMetric):
    """MMDetection's ``CocoMetric`` with pycocotools' twelve figures, unrounded and at COCO's own limits of detections per image.

    MMDetection rounds to three digits and lets 100, 300 and 1000 detections per image count. Here boxes and masks give
    ``coco/bbox_mAP``, ``_mAP_50``, ``_mAP_75``, ``_mAP_s``, ``_mAP_m``, ``_mAP_l``, ``_AR@1``, ``_AR@10``, ``_AR@100``, ``_AR_s``,
    ``_AR_m``, ``_AR_l`` (``coco/segm_...``), see :func:`~dynperceiver_det.evaluation.score_detections`. Proposals are left to
    MMDetection.

    Args:
        ann_file: Annotation file in COCO's format; without one the ground truth is taken from the data samples.
        metric: One or several of ``bbox``, ``segm``, ``proposal``, ``proposal_fast``.
        classwise: Also give each class's AP, as ``coco/{class}_precision`` (``coco/bbox_{class}_precision`` and
            ``coco/segm_{class}_precision`` where both are measured), -1 for a class without objects.
        kwargs: The other arguments of MMDetection's ``CocoMetric``: ``format_only``, ``outfile_prefix``, ``backend_args``,
            ``proposal_nums`` (for proposals only), ``collect_device``, ``prefix`` and ``sort_categories``; ``iou_thrs``,
            ``metric_items`` and ``use_mp_eval`` for proposals only.

    Raises:
        MissingFileError: If the annotation file is missing.
        UserError: If an argument asks for other figures than COCO's.
    """

    def __init__(self, ann_file: str | None = None, metric: str | Sequence[str] = 'bbox', classwise: bool = False, **kwargs: Any) -> None:
        metrics = [metric] if isinstance(metric, str) else list(metric)
        given = [name for name in FIXED if kwargs.get(name) is not None and kwargs[name] is not False]
        if given and any(name in IOU_TYPES for name in metrics):
            raise UserError(
                f"{given[0]}={kwargs[given[0]]!r} is not taken for {', '.join(metrics)}: figures are COCO's own, {FIXED[given[0]]}; leave "
                "it out, or use type='mmdet.CocoMetric'"
            )
        if kwargs.get('format_only') and kwargs.get('outfile_prefix') is None:
            raise UserError("format_only=True needs outfile_prefix='FOLDER/NAME', where the result files are to go")
        if ann_file is not None and '://' not in str(ann_file) and not kwargs.get('backend_args') and not Path(ann_file).is_file():
            raise MissingFileError(f'annotation file {ann_file} is missing; set ann_file of the evaluator in the config')
        super().__init__(ann_file=ann_file, metric=metrics, classwise=classwise, **kwargs)

    def compute_metrics(self, results: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, float]:
        """Figures of the whole data set; also logs pycocotools' tables.

        Args:
            results: Ground truth and prediction of each image, from ``process``.

        Raises:
            UserError: If the predictions, the annotations and the data set's classes do not belong together.
        """
        measured = [name for name in self.metrics if name in IOU_TYPES]
        if not results:
            print_log('no image was predicted: all figures are zero', logger='current', level=logging.WARNING)
            return {f'{name}_{figure}': 0.0 for name in measured for figure in FIGURES}
        self._check_classes(results)
        if 'segm' in measured and not self.format_only and 'masks' not in results[0][1]:
            raise UserError("metric='segm' needs masks, and the predictions have none; use metric='bbox', or a detector with a mask head")
        with self._result_prefix() as prefix:
            figures: dict[str, float] = dict(self._let_mmdet_prepare(results, prefix))
            for name in measured if not self.format_only else ():
                own = score_detections(self._coco_api, f'{prefix}.{name}.json', name, self.cat_ids, self.img_ids, self.classwise)
                of_classes = own.keys() - {f'{name}_{figure}' for figure in FIGURES} if len(measured) > 1 else ()
                figures |= {f'{name}_{key}' if key in of_classes else key: value for key, value in own.items()}
        return figures

    def _let_mmdet_prepare(self, results: list[Any], prefix: str) -> dict[str, float]:
        """Ground truth, ids and result files by MMDetection's code, and its figures of proposals."""
        wanted, given = self.metrics, self.outfile_prefix
        self.metrics, self.outfile_prefix = [name for name in wanted if name not in IOU_TYPES], prefix
        try:
            return super().compute_metrics(results)
        finally:
            self.metrics, self.outfile_prefix = wanted, given

    @contextmanager
    def _result_prefix(self) -> Iterator[str]:
        """Beginning of the result files' names, in a folder that is there for now only unless the config names one."""
        if self.outfile_prefix is not None:
            yield self.outfile_prefix
            return
        with tempfile.TemporaryDirectory() as folder:
            yield str(Path(folder) / 'results')

    def _check_classes(self, results: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
        """Check that class numbers mean the same to the model, the data set and the annotation file."""
        classes = tuple((self.dataset_meta or {}).get('classes') or ())
        if not classes:
            raise UserError("the data set does not name its classes; set metainfo=dict(classes=(...)) of the evaluator's data set")
        if self._coco_api is not None:
            names = {category['name'] for category in self._coco_api.cats.values()}
            missing = [name for name in classes if name not in names]
            if missing:
                raise UserError(
                    f'the annotation file has no category {missing[0]!r}, in all {len(missing)} of the {len(classes)} classes of the data '
                    'set, so that class numbers would shift; set metainfo=dict(classes=(...)) to its categories'
                )
        largest = max((int(prediction['labels'].max()) for _, prediction in results if len(prediction['labels'])), default=-1)
        if largest >= len(classes):
            raise UserError(
                f'the model predicts class number {largest}, but the data set has {len(classes)} classes; set num_classes of its head to '
                f'{len(classes)}'
            )
