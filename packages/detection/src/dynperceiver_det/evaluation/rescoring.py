"""Scoring results that were kept: a pickle of ``tools/test.py --out``, or a result file in COCO's format."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mmdet  # noqa: F401  makes the scope of its registries known
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.fileio import load
from mmengine.registry import DATASETS, DefaultScope

from dynperceiver.data import innermost_datasets
from dynperceiver_runtime import FileError, MissingFileError, UserError
from dynperceiver_runtime.files import reading

from .scoring import IOU_TYPES, check_image_ids, read_detections, read_ground_truth, score_detections

__all__ = ['score_result']

PICKLES = ('.pkl', '.pickle')


def score_result(cfg: Config, result: str | Path, iou_type: str | None = None) -> dict[str, float]:
    """Score a kept result with a config's evaluator and test data set; images are not needed, annotations are.

    Args:
        cfg: Config of the test, MMDetection's or ours.
        result: ``.pkl`` or ``.pickle``: data samples as MMDetection's ``DumpDetResults`` keeps them, scored by the config's
            ``test_evaluator``. A pickle can run code when it is read: open only your own. ``.json``: COCO's format, scored by
            :func:`~dynperceiver_det.evaluation.score_detections`, whatever the evaluator is.
        iou_type: Of a ``.json``: ``bbox`` or ``segm``; told from its contents by default.

    Returns:
        Figures under the names that a test reports.

    Raises:
        MissingFileError: If the result or the ground truth is missing.
        UserError: If the result is not of these formats, or does not belong to the config's data set.
    """
    result = Path(result)
    if result.suffix not in (*PICKLES, '.json'):
        raise UserError(f'{result}: a result is a .pkl of tools/test.py --out, or a .json in the format of COCO')
    if result.suffix in PICKLES and iou_type is not None:
        raise UserError(f'--iou-type {iou_type} is for .json results; of {result} the test_evaluator of the config measures its metrics')
    if not result.is_file():
        raise MissingFileError(f'result file {result} is missing; tools/test.py CONFIG CHECKPOINT --out FILE.pkl makes one')
    for part in ('test_evaluator', 'test_dataloader'):
        if not cfg.get(part):
            raise UserError(f'the config has no {part}, which says how and on what to score; pass the config of a test')
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmdet'):
        metainfo = DATASETS.build(dict(innermost_datasets(cfg.test_dataloader.dataset)[0], lazy_init=True)).metainfo
        return _score_json(cfg, result, metainfo, iou_type) if result.suffix == '.json' else _score_pickle(cfg, result, metainfo)


def _evaluators(cfg: Config) -> list[dict[str, Any]]:
    evaluator = cfg.test_evaluator
    return list(evaluator) if isinstance(evaluator, Sequence) else [evaluator]


def _annotation_file(cfg: Config) -> Path:
    """Ground truth of the evaluator, or else of the data set."""
    for evaluator in _evaluators(cfg):
        if evaluator.get('ann_file'):
            return Path(evaluator['ann_file'])
    dataset = innermost_datasets(cfg.test_dataloader.dataset)[0]
    if not dataset.get('ann_file'):
        raise UserError('neither test_evaluator nor the data set of test_dataloader has an ann_file; set one in the config')
    return Path(dataset.get('data_root') or '', dataset['ann_file'])


def _told_iou_type(result: Path, detections: Sequence[Any]) -> str:
    first = detections[0] if detections else None
    for iou_type in ('segm', 'bbox'):  # masks come with boxes
        if isinstance(first, Mapping) and IOU_TYPES[iou_type] in first:
            return iou_type
        if first is None and result.name.endswith(f'.{iou_type}.json'):
            return iou_type
    what = 'is empty' if first is None else 'has neither bbox nor segmentation in entry 0'
    raise UserError(f'{result} {what}, so that it does not show what it holds; say --iou-type bbox or --iou-type segm')


def _score_json(cfg: Config, result: Path, metainfo: Mapping[str, Any], iou_type: str | None) -> dict[str, float]:
    iou_type = iou_type or _told_iou_type(result, read_detections(result))
    path = _annotation_file(cfg)
    ground_truth = read_ground_truth(path)
    category_ids = None
    if metainfo.get('classes'):
        category_ids = ground_truth.getCatIds(catNms=list(metainfo['classes']))
        if not category_ids:
            raise UserError(
                f'{path} has none of the classes of the data set ({metainfo["classes"][0]}, ...); set metainfo=dict(classes=(...)) of '
                'test_dataloader.dataset'
            )
    scorer: Mapping[str, Any] = next((part for part in _evaluators(cfg) if part['type'].endswith('CocoMetric')), {})
    prefix = scorer.get('prefix') or 'coco'
    figures = score_detections(ground_truth, result, iou_type, category_ids, classwise=bool(scorer.get('classwise')))
    return {f'{prefix}/{name}': value for name, value in figures.items()}


def _read_samples(result: Path) -> list[dict[str, Any]]:
    try:
        with reading(result, 'result file'):
            samples = load(result)
    except FileError:
        raise
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, ValueError, KeyError) as error:
        raise UserError(f'{result} cannot be read as a pickle ({error}); keep the predictions again with tools/test.py --out') from error
    if not isinstance(samples, list):
        raise UserError(f'{result} holds a {type(samples).__name__}, not a list of data samples as tools/test.py --out keeps them')
    for index, sample in enumerate(samples):
        missing = [key for key in ('img_id', 'pred_instances') if not isinstance(sample, Mapping) or key not in sample]
        if missing:
            raise UserError(f'{result}: entry {index} lacks {", ".join(missing)}; keep the predictions again with tools/test.py --out')
    return samples


def _score_pickle(cfg: Config, result: Path, metainfo: Mapping[str, Any]) -> dict[str, float]:
    samples = _read_samples(result)
    for part in _evaluators(cfg):
        if part.get('ann_file') and '://' not in part['ann_file'] and not part.get('backend_args'):
            check_image_ids([sample['img_id'] for sample in samples], read_ground_truth(part['ann_file']), result)
    evaluator = Evaluator(_evaluators(cfg))
    evaluator.dataset_meta = metainfo
    figures: dict[str, float] = evaluator.offline_evaluate(samples)
    return {name: float(value) for name, value in figures.items()}
