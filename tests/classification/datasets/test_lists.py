"""CSV lists: labels as names and as numbers, and every mistake by its line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tiny_images import PIPELINE, write_image

from dynperceiver_cls.datasets import CSVImages

CLASSES = dict(classes=('cat', 'dog'))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three images."""
    for i, name in enumerate(('a.png', 'b.png', 'sub/c, d.png')):
        write_image(tmp_path / 'images' / name, i)
    return tmp_path


def _dataset(root: Path, text: str, **arguments: Any) -> CSVImages:
    (root / 'list.csv').write_text(text, encoding='utf-8')
    settings: dict[str, Any] = dict(data_root=str(root), data_prefix=dict(img_path='images'), pipeline=PIPELINE)
    return CSVImages('list.csv', **{**settings, **arguments})


def _labels(dataset: CSVImages) -> list[int | None]:
    return [dataset.get_data_info(i).get('gt_label') for i in range(len(dataset))]


def test_names_and_numbers(root: Path) -> None:
    dataset = _dataset(root, 'path,label\na.png,dog\n\nb.png, cat\n"sub/c, d.png",1\n', metainfo=CLASSES)
    assert _labels(dataset) == [1, 0, 1]
    assert dataset.metainfo['classes'] == ('cat', 'dog')
    assert [int(dataset[i]['inputs'].max()) for i in range(3)] == [0, 1, 2]
    assert dataset.get_data_info(2)['img_path'] == f'{root}/images/sub/c, d.png'
    dataset = _dataset(root, 'path,label\na.png,2\nb.png,0\n')
    assert _labels(dataset) == [2, 0] and dataset.metainfo['classes'] == ('0', '1', '2')


def test_a_name_that_looks_like_a_number_is_a_name(root: Path) -> None:
    assert _labels(_dataset(root, 'path,label\na.png,1\nb.png,0\n', metainfo=dict(classes=('1', '0')))) == [0, 1]


def test_columns_and_forms(root: Path) -> None:
    text = '\ufeffid;kind;file\r\n7;dog;a.png\r\n8;cat;b.png\r\n'
    dataset = _dataset(root, text, path_column='file', label_column='kind', delimiter=';', metainfo=CLASSES)
    assert _labels(dataset) == [1, 0]
    first = _dataset(root, '\ufeffpath,label\na.png,0\n')
    assert len(first) == 1
    unlabelled = _dataset(root, 'path\na.png\nb.png\n', label_column=None, metainfo=CLASSES)
    assert _labels(unlabelled) == [None, None]
    assert 'gt_label' not in unlabelled[0]['data_samples']
    with pytest.raises(ValueError, match="part='train' needs one label for every sample, and 2 of 2 have none"):
        _dataset(root, 'path\na.png\nb.png\n', label_column=None, part='train', holdout=0.5)


@pytest.mark.parametrize(
    ('text', 'classes', 'error'),
    [
        ('path,label\na.png,0\nb.png\n', None, 'list.csv, line 3 has 1 columns, but the header has 2: path, label; put'),
        ('path,label\na.png,0\nsub/c, d.png,1\n', None, "line 3 has 3 columns, but the header has 2: path, label; put a text that has"),
        ('path,label\n\na.png,0\n"b.png,0\n', None, 'list.csv, line 4 is no CSV (unexpected end of data); correct the quotes'),
        ('path,label,label\na.png,0,0\n', None, "line 1: the header 'path, label, label' repeats label; it must name every column once"),
        ('file,label\na.png,0\n', None, "line 1: the header 'file, label' lacks path; it must name every column once, for example 'path,"),
        ('a.png,0\nb.png,1\n', None, "line 1: the header 'a.png, 0' lacks path, label; it"),
        ('', None, "line 1: the header '' lacks path, label"),
        ('path,label\n', None, 'list.csv names no image; it must have a line for each after the header'),
        ('path,label\na.png,0\n ,1\n', None, 'line 3: path is empty; write the path of an image'),
        ('path,label\na.png,\n', ('cat', 'dog'), "line 2: label '' is none of the 2 classes: cat, dog. Correct it"),
        ('path,label\na.png,dgo\n', ('cat', 'dog'), "line 2: label 'dgo' is none of the 2 classes: cat, dog (it resembles 'dog')."),
        ('path,label\na.png,1\nb.png,2\n', ('cat', 'dog'), 'line 3: label 2 is out of range; there are 2 classes, numbered from 0 to 1'),
        ('path,label\na.png,-1\n', ('cat', 'dog'), "line 2: label '-1' is none of the 2 classes"),
        ('path,label\na.png,-1\n', None, "line 2: label '-1' is no class number of 0 or more; for names, set metainfo=dict(classes="),
        ('path,label\na.png,dog\n', None, "line 2: label 'dog' is no class number of 0 or more; for names, set"),
        ('path,label\na.png,1.0\n', None, "label '1.0' is no class number"),
    ],
)
def test_mistakes_are_placed(root: Path, text: str, classes: tuple[str, ...] | None, error: str) -> None:
    with pytest.raises(ValueError, match=re.escape(error)):
        _dataset(root, text, metainfo=None if classes is None else dict(classes=classes))


def test_encoding(root: Path) -> None:
    (root / 'list.csv').write_bytes('path,label\nä.png,0\n'.encode('latin1'))
    with pytest.raises(ValueError, match=r'list.csv is not in UTF-8 .*; save it with that encoding'):
        CSVImages('list.csv', data_root=str(root))


def test_missing_images_are_named(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'list.csv: 2 of 3 images are missing: .*/images/x.png, .*/images/y/z.png; unpack'):
        _dataset(root, 'path,label\nx.png,0\na.png,0\ny/z.png,1\n')
    with pytest.raises(FileNotFoundError, match=r'1 of 1 images are missing.* may point to another folder'):
        _dataset(root, 'path,label\na.png,0\n', data_prefix=dict(img_path=''))
    with pytest.raises(FileNotFoundError, match=r'folder .*/pictures is missing'):
        _dataset(root, 'path,label\na.png,0\n', data_prefix=dict(img_path='pictures'))
    with pytest.raises(FileNotFoundError, match=r'file .*/gone.csv is missing'):
        CSVImages('gone.csv', data_root=str(root))
