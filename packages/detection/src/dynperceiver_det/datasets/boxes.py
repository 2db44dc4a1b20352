"""Checks the boxes of a COCO file against their images, all at once."""

from __future__ import annotations

import logging
from itertools import chain
from typing import Any

import numpy as np
from mmengine.logging import print_log

from dynperceiver_runtime import UserError

from .records import Records, in_words

__all__ = ['BAD_BOXES', 'check_boxes']

BAD_BOXES = ('error', 'clip')

# How far a box may stick out of its image, in pixels. COCO's own annotations do so by fractions, from rounding.
_TOLERANCE_PX = 1.0


def check_boxes(annotations: Records, images: Records, image_rows: np.ndarray, bad_boxes: str) -> list[dict[str, Any]]:
    """Check all boxes, and clip those that stick out if that is wanted.

    Args:
        annotations: With columns ``bbox`` and ``area``.
        images: With columns ``width``, ``height`` and ``file_name``.
        image_rows: For every annotation, the row of its image in ``images``.
        bad_boxes: What to do about boxes outside their image or sticking out by more than 1 px: ``'error'`` or ``'clip'``.

    Returns:
        The annotations; with ``'clip'``, without those of which nothing lies within the image.

    Raises:
        UserError: If a box is not four finite numbers or has a negative width or height, or, with ``'error'``, lies outside.
    """
    boxes = _as_array(annotations)
    annotations.require('area', {int, float}, 'a number')
    annotations.refuse('bbox', (boxes[:, 2:] < 0).any(axis=1), '[x, y, width, height] with width and height not negative')
    sizes = np.array([images['width'], images['height']], dtype=np.float64).T[image_rows]
    starts, ends = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    sticks_out = (starts < -_TOLERANCE_PX).any(axis=1) | (ends > sizes + _TOLERANCE_PX).any(axis=1)
    # A box narrower than a pixel may lie on the edge by rounding; MMDetection drops it anyway.
    sticks_out |= (boxes[:, 2:] >= 1).all(axis=1) & ((starts >= sizes) | (ends <= 0)).any(axis=1)
    # MMDetection does not use what is marked so, whatever its box.
    bad = np.array([i for i in np.flatnonzero(sticks_out) if not annotations.records[i].get('ignore', False)], dtype=np.int64)
    records = annotations.records
    if len(bad) and bad_boxes == 'error':
        raise UserError(_outside_in_words(annotations, images, image_rows, bad, boxes, sizes))
    if len(bad):
        records = _clip(annotations, bad, starts, ends, sizes)
        boxes[bad, :2] = np.clip(starts[bad], 0, sizes[bad])
        boxes[bad, 2:] = np.clip(ends[bad], 0, sizes[bad]) - boxes[bad, :2]
    _warn_of_small_ones(annotations, boxes, sizes, bad)
    return records


def _as_array(annotations: Records) -> np.ndarray:
    rule = 'four finite numbers [x, y, width, height] in pixels'
    column = annotations['bbox']
    annotations.require('bbox', {list}, rule)
    if set(map(len, column)) - {4} or set(map(type, chain.from_iterable(column))) - {int, float}:
        annotations.refuse('bbox', (len(box) != 4 or bool(set(map(type, box)) - {int, float}) for box in column), rule)
    boxes = np.fromiter(chain.from_iterable(column), np.float64, 4 * len(column)).reshape(-1, 4)
    annotations.refuse('bbox', ~np.isfinite(boxes).all(axis=1), rule)
    return boxes


def _outside_in_words(
    annotations: Records, images: Records, image_rows: np.ndarray, bad: np.ndarray, boxes: np.ndarray, sizes: np.ndarray
) -> str:
    lines = []
    for i in bad[:5]:
        row = image_rows[i]
        lines.append(
            f'annotation {annotations.where(i)}: box {annotations["bbox"][i]} in {images["file_name"][row]} (image {images.where(row)}), '
            f'which is {images["width"][row]} x {images["height"][row]}'
        )
    starts, extents, sizes = boxes[bad, :2], boxes[bad, 2:], sizes[bad]
    hint = ''
    if (extents > starts).all() and (extents <= sizes + _TOLERANCE_PX).all():
        hint = 'They look like [x1, y1, x2, y2], but COCO format needs [x, y, width, height]. '
    elif (starts >= -_TOLERANCE_PX).all() and (starts + extents <= sizes[:, ::-1] + _TOLERANCE_PX).all():
        hint = 'Width and height of these images look swapped, as happens to photos that EXIF turns. '
    lines += [f'... and {len(bad) - 5} more'] * (len(bad) > 5)
    return (
        f'{annotations.file}: boxes must lie within their image, but {len(bad)} of {len(annotations)} lie outside or stick out by more '
        f'than {_TOLERANCE_PX:g} px:\n  ' + '\n  '.join(lines) + f'\n{hint}Correct the file, '
        "or pass bad_boxes='clip' to the data set to clip them to their images."
    )


def _clip(annotations: Records, bad: np.ndarray, starts: np.ndarray, ends: np.ndarray, sizes: np.ndarray) -> list[dict[str, Any]]:
    """Put clipped boxes into copies of the records, and leave out those without area."""
    low, high = np.clip(starts[bad], 0, sizes[bad]), np.clip(ends[bad], 0, sizes[bad])
    clipped, dropped = [], []
    records: list[dict[str, Any] | None] = list(annotations.records)
    for i, start, extent in zip(bad.tolist(), low.tolist(), (high - low).tolist(), strict=True):
        area = extent[0] * extent[1]
        if area > 0:
            records[i] = {**annotations.records[i], 'bbox': start + extent, 'area': min(annotations['area'][i], area)}
            clipped.append(annotations['id'][i])
        else:
            records[i] = None
            dropped.append(annotations['id'][i])
    parts = [f'{len(clipped)} boxes clipped to their images (annotation ids {in_words(clipped)})'] * bool(clipped)
    parts += [f'{len(dropped)} left out that lie wholly outside (annotation ids {in_words(dropped)})'] * bool(dropped)
    print_log(
        f"{annotations.file}: bad_boxes='clip': {' and '.join(parts)}; masks and the file itself stay as they are.",
        logger='current',
        level=logging.WARNING,
    )
    return [record for record in records if record is not None]


def _warn_of_small_ones(annotations: Records, boxes: np.ndarray, sizes: np.ndarray, bad: np.ndarray) -> None:
    """Say once what MMDetection drops without a word."""
    within = np.minimum(boxes[:, :2] + boxes[:, 2:], sizes) - np.maximum(boxes[:, :2], 0)
    small = (boxes[:, 2:] < 1).any(axis=1) | (np.asarray(annotations['area'], dtype=np.float64) <= 0) | (within <= 0).any(axis=1)
    small[bad[(boxes[bad, 2:] <= 0).any(axis=1)]] = False  # those that clipping has left out
    ids = [annotations['id'][i] for i in np.flatnonzero(small) if not annotations.records[i].get('ignore', False)]
    if ids:
        print_log(
            f'{annotations.file}: MMDetection drops {len(ids)} of {len(annotations)} boxes, because they are less than 1 px wide or high '
            f'or have no area: annotation ids {in_words(ids)}.',
            logger='current',
            level=logging.WARNING,
        )
