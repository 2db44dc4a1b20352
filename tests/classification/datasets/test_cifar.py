"""CIFAR's published files, read as data only."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_images import CIFAR10_CLASSES, PIPELINE, cifar_pickle, pickle2_string, write_cifar10, write_cifar100

from dynperceiver_cls.datasets import CIFAR10, CIFAR100
from dynperceiver_cls.datasets.cifar import load_batch


def _content(path: Path) -> dict[bytes, Any]:
    """A file of CIFAR as its authors say to read it."""
    with open(path, 'rb') as file:
        return pickle.load(file, encoding='bytes')


def test_cifar10(tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path)
    dataset = CIFAR10(str(tmp_path), pipeline=PIPELINE)
    assert len(dataset) == 15 and dataset.metainfo['classes'] == CIFAR10_CLASSES
    for number in (1, 5):
        batch = _content(folder / f'data_batch_{number}')
        for i in range(3):
            sample = dataset[3 * (number - 1) + i]
            np.testing.assert_array_equal(sample['inputs'], batch[b'data'][i].reshape(3, 32, 32))
            assert sample['data_samples'].gt_label == batch[b'labels'][i]
    assert dataset[7]['data_samples'].img_path == 'cifar-10-batches-py#train/7'
    test = CIFAR10(str(tmp_path), 'test', pipeline=PIPELINE, test_mode=True)
    assert len(test) == 3
    np.testing.assert_array_equal(test[2]['inputs'].flatten(), _content(folder / 'test_batch')[b'data'][2])


def test_cifar100_has_fine_labels(tmp_path: Path) -> None:
    folder = write_cifar100(tmp_path)
    for split in ('train', 'test'):
        dataset = CIFAR100(str(tmp_path), split, pipeline=PIPELINE)
        batch = _content(folder / split)
        assert [dataset[i]['data_samples'].gt_label for i in range(3)] == batch[b'fine_labels'] != batch[b'coarse_labels']
        np.testing.assert_array_equal(dataset[1]['inputs'].flatten(), batch[b'data'][1])
    assert dataset.metainfo['classes'] == tuple(f'class{i}' for i in range(100))


def test_pickles_of_today_are_read(tmp_path: Path) -> None:
    content = {b'data': np.arange(6, dtype=np.uint8).reshape(2, 3), b'labels': [1, 2], 'name': b'x'}
    for protocol in (3, 4):
        (tmp_path / 'batch').write_bytes(pickle.dumps(content, protocol))
        read = load_batch(str(tmp_path / 'batch'))
        np.testing.assert_array_equal(read.pop('data'), content[b'data'])
        assert read == {'labels': [1, 2], 'name': b'x'}


@pytest.mark.parametrize(
    'call',
    ['os.system', 'builtins.eval', '__builtin__.eval', 'builtins.getattr', 'numpy.load', 'numpy.core.multiarray.scalar'],
)
def test_programs_in_pickles_are_refused(tmp_path: Path, call: str) -> None:
    folder = write_cifar10(tmp_path)
    marker = tmp_path / 'ran'
    module, _, name = call.rpartition('.')
    argument = pickle2_string(f'touch {marker}'.encode())
    (folder / 'data_batch_2').write_bytes(b'\x80\x02' + f'c{module}\n{name}\n'.encode() + b'(' + argument + b'tR.')
    text = f'data_batch_2 is no complete file of CIFAR (UnpicklingError: it asks for {call}, and only NumPy arrays'
    with pytest.raises(ValueError, match=re.escape(text)):
        CIFAR10(str(tmp_path))
    assert not marker.exists()


def test_what_is_missing_is_named_with_its_source(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        CIFAR10(str(tmp_path))
    assert f'folder {tmp_path}/cifar-10-batches-py is missing' in str(caught.value)
    assert "page 'The CIFAR-10 and CIFAR-100 datasets' (https://www.cs.toronto.edu/~kriz/cifar.html), 'python version'" in str(caught.value)
    folder = write_cifar10(tmp_path)
    for name in ('data_batch_4', 'batches.meta'):
        (folder / name).rename(folder / 'aside')
        with pytest.raises(FileNotFoundError, match=f'file {folder}/{name} is missing; the data set comes from A. Krizhevsky'):
            CIFAR10(str(tmp_path))
        (folder / 'aside').rename(folder / name)
    with pytest.raises(ValueError, match=r"split='val' must be one of \('train', 'test'\); hold images out by part and holdout"):
        CIFAR10(str(tmp_path), 'val')


def _set(key: bytes, value: Any) -> Callable[[dict[bytes, Any]], None]:
    return lambda batch: batch.update({key: value})


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        (lambda batch: batch.pop(b'data'), "data_batch_3 lacks 'data'; it has batch_label, filenames, labels. Unpack"),
        (_set(b'data', np.zeros((3, 3071), np.uint8)), "data_batch_3: 'data' must be uint8 (images, 3072), but is uint8 (3, 3071)"),
        (_set(b'data', [1]), "'data' must be uint8 (images, 3072), but is list"),
        (lambda batch: batch[b'labels'].pop(), 'data_batch_3: there must be a list of 3 labels, but there is one of 2'),
        (_set(b'labels', b'abc'), 'there must be a list of 3 labels, but there is a bytes'),
        (_set(b'labels', [1, 10, 2]), 'data_batch_3: 1 labels are out of range, for example 10; there are 10 classes'),
        (_set(b'labels', [1, 2, -1]), '1 labels are out of range, for example -1'),
    ],
)
def test_broken_batches(tmp_path: Path, change: Callable[[dict[bytes, Any]], Any], text: str) -> None:
    path = write_cifar10(tmp_path) / 'data_batch_3'
    batch = _content(path)
    change(batch)
    path.write_bytes(cifar_pickle(batch))
    with pytest.raises(ValueError, match=re.escape(text)):
        CIFAR10(str(tmp_path))


def test_cut_off_files(tmp_path: Path) -> None:
    path = write_cifar10(tmp_path) / 'data_batch_3'
    content = path.read_bytes()
    for size in (0, 100, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r'data_batch_3 is no complete file of CIFAR .*; unpack the archive again'):
            CIFAR10(str(tmp_path))
    path.write_bytes(b'\x80\x02](.'.replace(b'(', b''))
    with pytest.raises(ValueError, match='data_batch_3 must hold a dict, but holds a list'):
        CIFAR10(str(tmp_path))


def test_classes_must_be_those_of_the_data_set(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    assert CIFAR10(str(tmp_path), metainfo=dict(classes=list(CIFAR10_CLASSES))).metainfo['classes'] == CIFAR10_CLASSES
    with pytest.raises(ValueError, match=r"metainfo\['classes'\] is cat, dog \(2\), but .*cifar-10-batches-py has airplane, .*\(10\)"):
        CIFAR10(str(tmp_path), metainfo=dict(classes=('cat', 'dog')))
