"""Images in an npz file: what is read, how it travels to other processes, and what is refused."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_images import PIPELINE, image_bytes, packed_arrays
from torch.utils.data import DataLoader

from dynperceiver_cls.datasets import PackedImages, stack_samples

LABELS = (0, 1, 1, 0, 1)
Arrays = dict[str, np.ndarray]


def _dataset(root: Path, arrays: Arrays | None = None, save: Callable[..., None] = np.savez, **arguments: Any) -> PackedImages:
    save(root / 'images.npz', **(packed_arrays(LABELS) if arrays is None else arrays))
    return PackedImages('images.npz', data_root=str(root), pipeline=PIPELINE, **arguments)


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_samples(tmp_path: Path, save: Callable[..., None]) -> None:
    dataset = _dataset(tmp_path, {**packed_arrays(LABELS), **packed_arrays((1, 0), 'test')}, save)
    assert dataset.metainfo['classes'] == ('cat', 'dog')
    assert dataset.get_data_info(3) == {'img_path': 'images.npz#train/3', 'img_bytes': image_bytes(3), 'gt_label': 0, 'sample_idx': 3}
    for i, label in enumerate(LABELS):
        sample = dataset[i]
        assert np.unique(sample['inputs']).tolist() == [i] and sample['data_samples'].gt_label == label
    test = PackedImages('images.npz', data_root=str(tmp_path), split='test', test_mode=True)
    assert [test.get_data_info(i)['gt_label'] for i in range(len(test))] == [1, 0]


def test_copies_share_the_images_and_pickles_leave_them_out(tmp_path: Path) -> None:
    arrays = packed_arrays(LABELS)
    arrays['train_jpeg'] = np.concatenate([arrays['train_jpeg'], np.zeros(1_000_000, np.uint8)])
    arrays['train_offset'][-1] += 1_000_000
    dataset = _dataset(tmp_path, arrays)
    assert copy.deepcopy(dataset)._archive is dataset._archive
    assert dataset.get_subset([1])._archive is dataset._archive
    content = pickle.dumps(dataset._archive)
    assert len(content) < 500
    assert pickle.loads(content).read(2) == image_bytes(2)
    assert copy.deepcopy(dataset)[2]['data_samples'].img_path == 'images.npz#train/2'


def test_what_a_spawned_worker_is_sent(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path)
    received = ForkingPickler.loads(ForkingPickler.dumps(dataset))
    assert received._archive is not dataset._archive
    assert received[2]['data_samples'].img_path == 'images.npz#train/2' and int(received[2]['inputs'].max()) == 2


@pytest.mark.parametrize('context', ['fork', pytest.param('spawn', marks=pytest.mark.slow)])
def test_workers(tmp_path: Path, context: str) -> None:
    dataset = _dataset(tmp_path, part='holdout', holdout=0.4, split_seed=None)
    loader = DataLoader(dataset, batch_size=2, num_workers=1, collate_fn=stack_samples, multiprocessing_context=context)
    (batch,) = list(loader)
    assert batch['inputs'].is_contiguous(memory_format=torch.channels_last)
    assert batch['inputs'][:, 0, 0, 0].tolist() == [3, 4]
    assert [sample.gt_label for sample in batch['data_samples']] == [0, 1]


def _set(name: str, value: Any) -> Callable[[Arrays], None]:
    return lambda arrays: arrays.update({name: np.asarray(value)})


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        (lambda arrays: arrays.pop('train_label'), 'lacks the arrays train_label; it has train_jpeg, train_offset, classes. Set split'),
        (lambda arrays: arrays.clear(), 'lacks the arrays train_jpeg, train_offset, train_label, classes; it has none. It needs them'),
        (lambda arrays: arrays['train_offset'].__setitem__(2, 1), 'train_offset must rise from 0, but entry 2 is 1 after '),
        (lambda arrays: arrays['train_offset'].__setitem__(0, -1), 'train_offset must rise from 0, but entry 0 is -1; make'),
        (lambda arrays: arrays.update(train_jpeg=arrays['train_jpeg'][:-1]), 'bytes; the arrays are not of one file, or were cut'),
        (_set('train_label', (0, 1)), 'train_offset counts 5 images, but it is an array of int64 with shape (2,)'),
        (_set('train_label', [0.5] * 5), 'train_label must be a whole number per image'),
        (_set('train_label', (0, 1, 2, 0, 2)), 'there are 2 classes, but image 2 has label 2 (2 such labels); correct the labels'),
        (_set('train_label', (0, 1, 1, -1, 0)), 'image 3 has label -1 (1 such labels)'),
        (_set('train_jpeg', [[1, 2]]), 'train_jpeg must be the bytes of all images in a row, but is an array of int64 with shape (1, 2)'),
        (_set('train_offset', [0.0, 1.0]), 'train_offset must be whole numbers, one more than there are images, but is an'),
        (_set('train_offset', [0]), 'train_offset must be whole numbers, one more than there are images'),
        (_set('train_group', [1, 2]), 'train_group must be a whole number or a name per image, and there are 5 images, but it is'),
        (_set('train_group', [0.5] * 5), 'train_group must be a whole number or a name per image'),
        (_set('train_group', ['a', ' ', 'b', '', 'c']), 'train_group has no name for 2 of 5 images, for example image 1; name a group'),
        (_set('classes', [1, 2]), 'classes must be names, but is an array of int64'),
    ],
)
def test_mistakes_are_named(tmp_path: Path, change: Callable[[Arrays], None], text: str) -> None:
    arrays = packed_arrays(LABELS)
    change(arrays)
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        _dataset(tmp_path, arrays)
    assert str(tmp_path / 'images.npz') in str(caught.value)


def test_broken_files(tmp_path: Path) -> None:
    _dataset(tmp_path)
    path = tmp_path / 'images.npz'
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 8] ^= 255
    objects = np.array([{}] * 5, object)
    for broken in (content[: len(content) // 2], b'', b'no npz', bytes(flipped)):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r'images.npz is no complete npz file \(.*\); copy or make it again'):
            PackedImages('images.npz', data_root=str(tmp_path))
    with pytest.raises(ValueError, match=r'is no complete npz file .*allow_pickle=False'):
        _dataset(tmp_path, {**packed_arrays(LABELS), 'train_label': objects})
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r'file .*/images.npz is missing; the data set comes from the moon'):
        PackedImages('images.npz', data_root=str(tmp_path), source='the moon')


def test_split_and_classes(tmp_path: Path) -> None:
    assert _dataset(tmp_path, metainfo=dict(classes=['cat', 'dog'])).metainfo['classes'] == ('cat', 'dog')
    with pytest.raises(ValueError, match=r'lacks the arrays val_jpeg, val_offset, val_label; .* Set split to one of train'):
        _dataset(tmp_path, split='val')
    with pytest.raises(ValueError, match=r"metainfo\['classes'\] is dog, cat \(2\), but .*/images.npz has cat, dog \(2\); leave"):
        _dataset(tmp_path, metainfo=dict(classes=('dog', 'cat')))
