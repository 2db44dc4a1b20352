"""Files that are no COCO files, and records that lack something, are refused before the first training step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_coco import coco_content, coco_settings

from dynperceiver_det.datasets import CocoDataset
from dynperceiver_det.datasets.records import in_words

Change = Callable[[dict[str, Any]], Any]


def _refused(root: Path, content: Any, match: str, **kwargs: Any) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        CocoDataset(**coco_settings(root, content, **kwargs))
    assert f'{root}/train.json' in str(caught.value)


WHOLE = json.dumps(coco_content(), indent=1)


@pytest.mark.parametrize(
    ('text', 'match'),
    [
        ('', r'is empty: line 1, column 1: .* download or export it anew'),
        (WHOLE[: len(WHOLE) // 2], r'is cut off: line \d\d+, column \d+: .* download or export it anew'),
        (WHOLE[: WHOLE.index('.jpg')], r'is cut off: line 5, column 17: Unterminated string'),
        (WHOLE.replace('"images": [', '"images": [,', 1), r'is no JSON file: line 2, column 13: Expecting value.* correct the line'),
        ('<html>404</html>', 'is no JSON file: line 1, column 1: Expecting value.* correct the line, or give ann_file the COCO'),
        ('[{"image_id": 1}]', r'holds a list at its top level.*images, annotations, categories; a file of detections'),
        ('{}', r'lacks images and annotations and categories: COCO format needs .* The file has nothing'),
        ('{"images": {}, "annotations": [], "categories": []}', 'images must be a list of'),
        ('{"images": [], "annotations": [3], "categories": []}', 'annotations must be a list of'),
        ('{"images": [], "annotations": [], "categories": []}', 'images is empty'),
    ],
)
def test_what_is_no_coco_file(tmp_path: Path, text: str, match: str) -> None:
    _refused(tmp_path, text, match)


def test_what_is_no_text(tmp_path: Path) -> None:
    settings = coco_settings(tmp_path)
    (tmp_path / 'train.json').write_bytes(b'PK\x03\x04\xff\xfe\x80')
    with pytest.raises(ValueError, match=r'train\.json is no JSON file: invalid start byte at byte 4; .*unpacked'):
        CocoDataset(**settings)


@pytest.mark.parametrize('section', ['images', 'annotations', 'categories'])
def test_sections_that_lack(tmp_path: Path, section: str) -> None:
    content = coco_content()
    del content[section]
    _refused(tmp_path, content, rf'lacks {section}: COCO format needs "{section}": a list of \{{"id".*The file has')
    if section != 'annotations':
        _refused(tmp_path, content, f'lacks {section}', test_mode=True)


def test_a_test_set_may_lack_annotations(tmp_path: Path) -> None:
    content = coco_content()
    del content['annotations']
    dataset = CocoDataset(**coco_settings(tmp_path, content, test_mode=True))
    assert len(dataset) == 4 and dataset.get_data_info(0)['instances'] == []
    assert dataset[3]['data_samples'].img_id == 40


def _without(section: str, field: str, *positions: int) -> Change:
    return lambda content: [content[section][i].pop(field) for i in positions]


def _with(section: str, field: str, value: Any, *positions: int) -> Change:
    return lambda content: [content[section][i].__setitem__(field, value) for i in positions]


@pytest.mark.parametrize(
    ('change', 'match'),
    [
        (_without('images', 'id', 2), r'1 of 4 images lack "id": images\[2\]\. COCO format needs .* write "id" into'),
        (_without('images', 'file_name', 0, 3), r'2 of 4 images lack "file_name": id 10, id 40'),
        (_without('images', 'width', 1), r'1 of 4 images lack "width": id 20'),
        (_without('images', 'height', 1), r'1 of 4 images lack "height": id 20'),
        (_without('annotations', 'id', 7), r'1 of 8 annotations lack "id": annotations\[7\]'),
        (_without('annotations', 'image_id', 0), r'1 of 8 annotations lack "image_id": id 1\.'),
        (_without('annotations', 'category_id', 0), r'1 of 8 annotations lack "category_id": id 1\.'),
        (_without('annotations', 'bbox', *range(8)), r'8 of 8 annotations lack "bbox": id 1, id 2, id 3, id 4, id 5, and 3 more\.'),
        (_without('annotations', 'area', 4), r'lack "area": id 5\. .* \(width times height of the box, if there is no mask\)'),
        (_without('categories', 'name', 1), r'1 of 3 categories lack "name": id 2\.'),
        (_with('images', 'id', 10, 1), r'ids of images must be unique, but 1 occur more than once: 10\. Number the images anew'),
        (_with('annotations', 'id', 1, 1, 2), r'ids of annotations must be unique, but 1 occur more than once: 1\. .*merged'),
        (_with('categories', 'id', 5, 0), 'ids of categories must be unique, but 1 occur more than once: 5'),
        (_with('annotations', 'image_id', 99, 0, 5), r'image_id must be the id of one of images \(there are 4: 10, 20, 30, and 1 more\) in '
         r'all of annotations, but 2 of 8 are wrong: id 1 has 99; id 6 has 99\. Correct'),
        (_with('annotations', 'image_id', '10', 0), r"image_id must be the id of one of images .*: id 1 has '10'"),
        (_with('annotations', 'category_id', 0, 3), r'category_id must be the id of one of categories \(there are 3: 1, 2, 5\).* 4 has 0'),
        (_with('annotations', 'category_id', None, 3), 'category_id must be a number or a string .*id 4 has None'),
        (_with('images', 'width', 0, 0), 'width must be a number of pixels above 0 in all of images, but 1 of 4 are wrong: id 10 has 0'),
        (_with('images', 'height', '32', 0), "height must be a number of pixels .*id 10 has '32'"),
        (_with('images', 'height', float('nan'), 0), 'height must be a number of pixels above 0 .*id 10 has nan'),
        (_with('images', 'file_name', None, 0), 'file_name must be the image.s path .*id 10 has None'),
        (_with('categories', 'name', 7, 0), 'name must be a string .*id 1 has 7'),
    ],
)  # fmt: skip
@pytest.mark.parametrize('test_mode', [False, True])
def test_records_that_are_wrong(tmp_path: Path, change: Change, match: str, test_mode: bool) -> None:
    content = coco_content()
    change(content)
    _refused(tmp_path, content, match, test_mode=test_mode)


def test_lists_are_cut_short() -> None:
    assert in_words([1, 2]) == '1, 2'
    assert in_words(range(7)) == '0, 1, 2, 3, 4, and 2 more'
    assert in_words([], 3) == ''
