"""The one function that scores detections: pycocotools counts, this module checks what goes in and names what comes out."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from terminaltables import AsciiTable

from dynperceiver_runtime import FileError, MissingFileError, UserError
from dynperceiver_runtime.files import reading

__all__ = ['FIGURES', 'IOU_TYPES', 'check_image_ids', 'read_detections', 'read_ground_truth', 'score_detections']

FIGURES = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l', 'AR@1', 'AR@10', 'AR@100', 'AR_s', 'AR_m', 'AR_l')
"""Names of pycocotools' twelve figures, in its order; of the first six the names are mmdet's."""

IOU_TYPES = {'bbox': 'bbox', 'segm': 'segmentation'}
"""IoU type -> field of a detection that it is computed on."""


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _fault(detection: Any, iou_type: str) -> str | None:
    """What is wrong with an entry of a result file, or ``None``."""
    if not isinstance(detection, Mapping):
        return f'is a {type(detection).__name__}, not a dict'
    field = IOU_TYPES[iou_type]
    missing = [key for key in ('image_id', 'category_id', field, 'score') if key not in detection]
    if missing:
        return f'lacks {", ".join(missing)}'
    for key in ('image_id', 'category_id'):
        if not isinstance(detection[key], int | str):
            return f'has {key} {detection[key]!r}, not a whole number'
    if not _is_finite(detection['score']):
        return f'has score {detection["score"]!r}, not a finite number'
    place = detection[field]
    if iou_type == 'bbox' and not (isinstance(place, list) and len(place) == 4 and all(map(_is_finite, place))):
        return f'has bbox {place!r}, not four finite numbers x, y, width, height'
    if iou_type == 'segm' and not (isinstance(place, Mapping) and 'size' in place and isinstance(place.get('counts'), str)):
        return 'has a segmentation that is no compressed RLE {size, counts}; pycocotools.mask makes one'
    return None


def read_detections(result_file: str | Path) -> list[Any]:
    """Read a result file in COCO's format.

    Raises:
        MissingFileError: If it is missing.
        UserError: If it is no JSON, or not a list.
    """
    if not Path(result_file).is_file():
        raise MissingFileError(f'result file {result_file} is missing; tools/test.py CONFIG CHECKPOINT --out FILE.pkl makes one')
    with reading(result_file, 'result file'):
        content = Path(result_file).read_bytes()
    try:
        detections = json.loads(content)
    except ValueError as error:
        raise UserError(f'{result_file} cannot be read as JSON ({error}); write it again') from error
    if not isinstance(detections, list):
        raise UserError(
            f'{result_file} holds a {type(detections).__name__}, not a list; COCO results are a list of dicts with image_id, category_id, '
            'bbox or segmentation, and score'
        )
    return detections


def read_ground_truth(path: str | Path) -> COCO:
    """Load an annotation file in COCO's format, without pycocotools' messages.

    Raises:
        MissingFileError: If it is missing.
        UserError: If it is not in COCO's format.
    """
    if not Path(path).is_file():
        raise MissingFileError(f'ground truth {path} is missing; set ann_file of test_evaluator in the config, or get the annotations')
    try:
        with reading(path, 'ground truth'), contextlib.redirect_stdout(io.StringIO()):
            ground_truth = COCO(str(path))
        complete = all(isinstance(ground_truth.dataset.get(key), list) for key in ('images', 'annotations', 'categories'))
    except FileError:
        raise
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise UserError(f'ground truth {path} is not in the format of COCO ({error!r}); correct ann_file in the config') from error
    if not complete:
        raise UserError(f'ground truth {path} lacks images, annotations or categories; COCO figures need all three')
    return ground_truth


def check_image_ids(image_ids: Sequence[Any], ground_truth: COCO, source: str | Path) -> None:
    """Check that the images of a result are those of the ground truth.

    Raises:
        UserError: If one is not; the message names ``source``, the first such image and what to do.
    """
    unknown = sorted({image_id for image_id in image_ids if image_id not in ground_truth.imgs}, key=str)
    if unknown:
        raise UserError(
            f'{source} has image id {unknown[0]!r}, in all {len(unknown)} that are not among the {len(ground_truth.imgs)} images of the '
            'ground truth; score it with the annotation file (ann_file) of the data that was tested'
        )


def _check_detections(detections: Sequence[Any], ground_truth: COCO, source: str | Path, iou_type: str) -> None:
    for index, detection in enumerate(detections):
        fault = _fault(detection, iou_type)
        if fault:
            fields = f'image_id, category_id, {IOU_TYPES[iou_type]}, score'
            raise UserError(f'{source}: entry {index} {fault}; {iou_type} results are dicts with {fields}')
    check_image_ids([detection['image_id'] for detection in detections], ground_truth, source)
    unknown = sorted({detection['category_id'] for detection in detections} - set(ground_truth.cats), key=str)
    if unknown:
        known = sorted(ground_truth.cats)
        raise UserError(
            f'{source} has category id {unknown[0]!r}, which the ground truth lacks (its {len(known)} ids run from {known[0]} to '
            f'{known[-1]}); results carry the category ids of the annotation file, not class numbers from 0'
        )


def _load(detections: list[dict[str, Any]], ground_truth: COCO, iou_type: str) -> COCO:
    if detections:
        # With a box in them pycocotools would take its area for that of the mask.
        unused = 'bbox' if iou_type == 'segm' else 'segmentation'
        return ground_truth.loadRes([{key: value for key, value in entry.items() if key != unused} for entry in detections])
    nothing = COCO()  # loadRes looks at the first detection
    nothing.dataset = dict(images=ground_truth.dataset['images'], categories=ground_truth.dataset['categories'], annotations=[])
    nothing.createIndex()
    return nothing


def _figures_per_class(evaluation: COCOeval, ground_truth: COCO) -> dict[str, list[float]]:
    """Name of each class -> its twelve figures: pycocotools summarizes a table of that class alone."""
    whole, figures = evaluation.eval, {}
    for index, category_id in enumerate(evaluation.params.catIds):
        own = slice(index, index + 1)
        evaluation.eval = dict(whole, precision=whole['precision'][:, :, own], recall=whole['recall'][:, own])
        evaluation.summarize()
        figures[ground_truth.cats[category_id]['name']] = [float(value) for value in evaluation.stats]
    evaluation.eval = whole
    return figures


def _class_table(per_class: Mapping[str, Sequence[float]]) -> str:
    rows = [[name, *('-' if value < 0 else f'{value:.3f}' for value in values[:6])] for name, values in per_class.items()]
    return str(AsciiTable([['category', *FIGURES[:6]], *rows]).table)


def score_detections(
    ground_truth: COCO | str | Path,
    result_file: str | Path,
    iou_type: str = 'bbox',
    category_ids: Sequence[int] | None = None,
    image_ids: Sequence[int] | None = None,
    classwise: bool = False,
) -> dict[str, float]:
    """Score a result file with pycocotools at its standard setting (IoU 0.5 to 0.95, at most 1, 10, 100 detections per image).

    Logs pycocotools' table. A result without any detection is scored as it is, with a warning.

    Args:
        ground_truth: Annotations in COCO's format: a file, or loaded by pycocotools.
        result_file: List of detections in COCO's format, as JSON.
        iou_type: ``bbox`` or ``segm``.
        category_ids: Categories to average over; all of the ground truth by default.
        image_ids: Images to score; all of the ground truth by default.
        classwise: Also give the AP of each class, as ``{class}_precision``, and log a table.

    Returns:
        The twelve figures, unrounded: :data:`FIGURES` with ``{iou_type}_`` before each. -1 marks those for which the ground truth has
        no object, as pycocotools does.

    Raises:
        MissingFileError: If a file is missing.
        UserError: If a file is not in COCO's format, or the two do not belong together.
    """
    if iou_type not in IOU_TYPES:
        raise UserError(f'iou_type={iou_type!r}: choose from {", ".join(IOU_TYPES)}')
    if not isinstance(ground_truth, COCO):
        ground_truth = read_ground_truth(ground_truth)
    detections = read_detections(result_file)
    _check_detections(detections, ground_truth, result_file, iou_type)
    if not detections:
        print_log(f'{result_file} holds no detection: all figures are zero', logger='current', level=logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(ground_truth, _load(detections, ground_truth, iou_type), iou_type)
        if category_ids is not None:
            evaluation.params.catIds = list(category_ids)
        if image_ids is not None:
            evaluation.params.imgIds = list(image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
    with contextlib.redirect_stdout(io.StringIO()) as table:
        evaluation.summarize()
    print_log(f'{iou_type} of {len(detections)} detections in {len(evaluation.params.imgIds)} images\n{table.getvalue()}', logger='current')
    figures = {f'{iou_type}_{name}': float(value) for name, value in zip(FIGURES, evaluation.stats, strict=True)}
    if classwise:
        with contextlib.redirect_stdout(io.StringIO()):
            per_class = _figures_per_class(evaluation, ground_truth)
        print_log(f'{iou_type} per class\n{_class_table(per_class)}', logger='current')
        figures |= {f'{name}_precision': values[0] for name, values in per_class.items()}
    return figures
