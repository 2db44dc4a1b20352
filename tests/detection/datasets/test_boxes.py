"""Boxes outside their image are refused, or clipped if that is wanted; those that MMDetection drops are counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmdet.datasets import CocoDataset as MMDetCocoDataset
from tiny_coco import coco_content, coco_settings

from dynperceiver_det.datasets import CocoDataset

Warnings = Callable[[], list[str]]


def _with_boxes(*boxes: Any, **fields: Any) -> dict[str, Any]:
    """Content whose first annotations have these boxes."""
    content = coco_content()
    for annotation, box in zip(content['annotations'], boxes, strict=False):
        annotation.update(fields, bbox=box)
    return content


def _boxes(dataset: CocoDataset, index: int) -> list[list[float]]:
    return [instance['bbox'] for instance in dataset.get_data_info(index)['instances']]


@pytest.mark.parametrize(
    'box', [None, 'box', [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, '3', 4], [1, 2, None, 4], [1, 2, float('nan'), 4], [1, 2, float('inf'), 4]]
)
def test_boxes_that_are_not_four_numbers(tmp_path: Path, box: Any) -> None:
    with pytest.raises(ValueError) as caught:
        CocoDataset(**coco_settings(tmp_path, _with_boxes([1, 2, 3, 4], box)))
    text = str(caught.value)
    assert text.startswith(f'{tmp_path}/train.json: bbox must be four finite numbers [x, y, width, height] in pixels in all of annotations')
    assert f'1 of 8 are wrong: id 2 has {box!r}. Correct the file.' in text


@pytest.mark.parametrize('bad_boxes', ['error', 'clip'])
@pytest.mark.parametrize('box', [[5, 5, -2, 3], [5, 5, 2, -0.5]])
def test_negative_sides_are_refused(tmp_path: Path, box: list[float], bad_boxes: str) -> None:
    with pytest.raises(ValueError, match=r'width and height not negative in all .* but 1 of 8 are wrong: id 1 has \[5, 5'):
        CocoDataset(**coco_settings(tmp_path, _with_boxes(box), bad_boxes=bad_boxes))


@pytest.mark.parametrize('test_mode', [False, True])
@pytest.mark.parametrize(
    'box', [[-1.5, 0, 9, 9], [0, -2, 9, 9], [40, 0, 9.5, 9], [0, 30, 9, 3.5], [48, 3, 1, 5], [100, 100, 5, 5], [-1, 3, 1, 5]]
)
def test_boxes_outside_are_refused(tmp_path: Path, box: list[float], test_mode: bool) -> None:
    with pytest.raises(ValueError) as caught:
        CocoDataset(**coco_settings(tmp_path, _with_boxes([1, 1, 5, 5], box), test_mode=test_mode))
    text = str(caught.value)
    assert text.startswith(f'{tmp_path}/train.json: boxes must lie within their image, but 1 of 8 lie outside or stick out by more than ')
    assert f' 1 px:\n  annotation id 2: box {box} in 0.jpg (image id 10), which is 48 x 32\n' in text
    assert text.endswith("Correct the file, or pass bad_boxes='clip' to the data set to clip them to their images.")


def test_many_boxes_outside_are_counted_and_the_first_listed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'but 7 of 8 lie outside') as caught:
        CocoDataset(**coco_settings(tmp_path, _with_boxes(*[[-9, 0, 20, 9]] * 7)))
    assert str(caught.value).count('annotation id') == 5 and '\n  ... and 2 more\n' in str(caught.value)


def test_usual_causes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'They look like \[x1, y1, x2, y2\], but COCO format needs \[x, y, width, height\]\. Correct'):
        CocoDataset(**coco_settings(tmp_path, _with_boxes([20, 10, 40, 30], [30, 20, 48, 32])))
    with pytest.raises(ValueError, match='look swapped, as happens to photos that EXIF turns'):
        CocoDataset(**coco_settings(tmp_path, _with_boxes([1, 30, 20, 18], [20, 1, 12, 40])))


def test_clipping(tmp_path: Path, warnings_logged: Warnings) -> None:
    content = _with_boxes([-4, -6, 10, 20], [100, 3, 5, 5], [40, 20, 100.5, 100], [3, 3, 4, 4], area=7000)
    content['annotations'][3]['area'] = 10
    dataset = CocoDataset(**coco_settings(tmp_path, content, bad_boxes='clip'))
    assert _boxes(dataset, 0) == [[0, 0, 6, 14]]
    assert _boxes(dataset, 1) == [[40, 20, 48, 32], [3, 3, 7, 7]]
    assert _boxes(dataset, 2) == [[2.5, 3.0, 12.5, 15.0], [20, 10, 48.4, 32.3]], 'rounding is left as it is'
    records = dataset.COCOAPI(str(tmp_path / 'train.json')).dataset['annotations']
    assert [record['area'] for record in records[:3]] == [6 * 14, 8 * 12, 10], 'no larger than the box'
    warning = warnings_logged()[0]
    assert warning.startswith(f"{tmp_path}/train.json: bad_boxes='clip': 2 boxes clipped to their images (annotation ids 1, 3) and ")
    assert '1 left out that lie wholly outside (annotation ids 2)' in warning
    assert json.loads((tmp_path / 'train.json').read_text()) == content, 'no file is changed'


def test_what_mmdetection_drops_is_said_once(tmp_path: Path, warnings_logged: Warnings) -> None:
    content = _with_boxes([5, 5, 0, 4], [5, 5, 4, 0.5], [48.2, 3, 0.5, 5])
    content['annotations'][4]['area'] = 0
    settings = coco_settings(tmp_path, content)
    dataset, theirs = CocoDataset(**settings), MMDetCocoDataset(**settings)
    assert dataset.data_list == theirs.data_list
    assert sum(len(info['instances']) for info in dataset.data_list) == 4
    [warning] = warnings_logged()
    assert 'MMDetection drops 4 of 8 boxes, because they are less than 1 px wide or high or have no area' in warning
    assert warning.endswith('annotation ids 1, 2, 3, 5.')


def test_ignored_annotations_may_lie_anywhere(tmp_path: Path, warnings_logged: Warnings) -> None:
    settings = coco_settings(tmp_path, _with_boxes([100, 100, 5, 5], [0, 0, 0, 0], ignore=1))
    assert CocoDataset(**settings).data_list == MMDetCocoDataset(**settings).data_list
    assert warnings_logged() == []


def test_what_to_do_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"bad_boxes='drop' must be one of \('error', 'clip'\)"):
        CocoDataset(**coco_settings(tmp_path, bad_boxes='drop'))
