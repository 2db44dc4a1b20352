"""Classes that the file does not have, or has in another order, are refused; categories left out are counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_coco import CLASSES, coco_content, coco_settings

from dynperceiver_det.datasets import CocoDataset

PASTE = r"To paste, from the file: metainfo=dict\(classes=\('cat', 'dog', 'traffic light'\)\)$"


@pytest.mark.parametrize(
    ('classes', 'match'),
    [
        (('cat', 'dogs', 'traffic_light', 'ox'), r"must be a category of .*train\.json, but it lacks 3 of 4 classes: 'dogs', "
         r"'traffic_light', 'ox'; 'dogs' resembles 'dog', 'traffic_light' resembles 'traffic light'\. Correct the names.*" + PASTE),
        (('apple', 'pear'), r'train\.json, but it has none of the 2 classes\. Correct the names.*' + PASTE),
        (('dog', 'cat'), r"must have the order of the categories of .*train\.json, .*, but 'dog' stands where the file has 'cat' and 'cat' "
         r"stands where the file has 'dog'\. Every file .* metainfo=dict\(classes=\('cat', 'dog'\)\)$"),
        ('cat', r"metainfo\['classes'\] is 'cat', but must be a tuple of different names; .*with a comma.*" + PASTE),
        (('cat', 'cat'), r"metainfo\['classes'\] is \('cat', 'cat'\), but must be a tuple of different names"),
        ((), r"metainfo\['classes'\] is \(\), but must be a tuple"),
    ],
)  # fmt: skip
def test_classes_that_do_not_fit(tmp_path: Path, classes: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        CocoDataset(**coco_settings(tmp_path, metainfo=dict(classes=classes)))


def test_cocos_own_classes_on_another_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'it lacks 77 of 80 classes: .*, and 57 more.*' + PASTE):
        CocoDataset(**coco_settings(tmp_path, metainfo=None))


def test_categories_of_one_name(tmp_path: Path) -> None:
    content = coco_content()
    content['categories'].append(dict(id=9, name='dog'))
    with pytest.raises(ValueError, match=r"train\.json: names of categories must be unique, but 'dog' occur more than once; merge them"):
        CocoDataset(**coco_settings(tmp_path, content))
    CocoDataset(**coco_settings(tmp_path, content, metainfo=dict(classes=('cat', 'traffic light'))))  # names not used do not matter


@pytest.mark.parametrize('classes', [CLASSES, list(CLASSES), ('cat', 'traffic light')])
def test_a_part_of_the_categories(tmp_path: Path, classes: Any, warnings_logged: Callable[[], list[str]]) -> None:
    dataset = CocoDataset(**coco_settings(tmp_path, metainfo=dict(classes=classes)))
    labels = [instance['bbox_label'] for info in dataset.data_list for instance in info['instances']]
    assert len(labels) == (8 if len(classes) == 3 else 5) and set(labels) == set(range(len(classes)))
    expected = "1 categories are not in metainfo['classes'], and 3 of 8 boxes are left out with them: dog."
    assert warnings_logged() == ([] if len(classes) == 3 else [f'{tmp_path}/train.json: {expected}'])
