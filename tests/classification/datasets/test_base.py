"""What all data sets of images share: parts, and what becomes of broken images; for how parts are chosen see test_held_out_parts.py."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.dataset import ClassBalancedDataset
from mmengine.logging import MMLogger
from tiny_images import PIPELINE, noise, packed_arrays, write_folders

from dynperceiver.data import BadSampleError, Reason
from dynperceiver_cls.datasets import ImageFolder, PackedImages, stack_samples

LABELS = [1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0]  # 5 and 10


def _packed(root: Path, **arguments: Any) -> PackedImages:
    np.savez(root / 'images.npz', **packed_arrays(LABELS))
    return PackedImages('images.npz', data_root=str(root), **arguments)


def _positions(dataset: PackedImages) -> list[int]:
    return [int(dataset.get_data_info(i)['img_path'].split('/')[1]) for i in range(len(dataset))]


def test_parts_are_balanced_and_do_not_overlap(tmp_path: Path) -> None:
    train, holdout = (_packed(tmp_path, part=part, holdout=0.2) for part in ('train', 'holdout'))
    assert sorted(LABELS[i] for i in _positions(holdout)) == [0, 1, 1]  # a fifth of each class
    assert _positions(train) == [i for i in range(15) if i not in _positions(holdout)]
    assert [holdout.get_data_info(i)['sample_idx'] for i in range(3)] == [0, 1, 2]
    assert _positions(_packed(tmp_path)) == list(range(15))
    assert sorted(LABELS[i] for i in _positions(_packed(tmp_path, part='holdout', holdout=0.01))) == [0, 1]  # at least one of each class
    assert _positions(_packed(tmp_path, part='holdout', holdout=0.2, indices=2)) == _positions(holdout)[:2]


def test_parts_without_a_seed_are_the_last_images_of_every_class(tmp_path: Path) -> None:
    train, holdout = (_packed(tmp_path, part=part, holdout=0.2, split_seed=None) for part in ('train', 'holdout'))
    assert _positions(holdout) == [9, 10, 14] and _positions(train) == [*range(9), 11, 12, 13]


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        (dict(part='val'), "part='val' must be one of ('all', 'train', 'holdout'); 'all' takes every sample"),
        (dict(part='train'), "holdout=None must lie in (0, 1) with part='train'; holdout=0.1 holds out a tenth"),
        (dict(part='holdout', holdout=1), "holdout=1 must lie in (0, 1) with part='holdout'"),
        (dict(part='holdout', holdout='10%'), "holdout=10% must lie in (0, 1) with part='holdout'"),
        (dict(split_seed=0.5), 'split_seed=0.5 must be a whole number, or None for the last samples of every class'),
        (dict(split_seed=True), 'split_seed=True must be a whole number'),
        (dict(part='train', holdout=0.92), 'npz: with holdout=0.92, classes 0 have no sample left for training (class 0 has 5); low'),
    ],
)
def test_splits_are_checked(tmp_path: Path, arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        _packed(tmp_path, **arguments)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Six images, of which the first four are missing later, empty, cut off and no image."""
    write_folders(tmp_path, {'cat': 4, 'dog': 2}, '.jpg')
    noise(64, 64).save(tmp_path / 'cat' / '2.jpg')
    (tmp_path / 'cat' / '1.jpg').write_bytes(b'')
    (tmp_path / 'cat' / '2.jpg').write_bytes((tmp_path / 'cat' / '2.jpg').read_bytes()[:2000])
    (tmp_path / 'cat' / '3.jpg').write_text('no image')
    return tmp_path


REASONS = [Reason.MISSING, Reason.EMPTY, Reason.TRUNCATED, Reason.UNDECODABLE]


def test_training_skips_broken_images(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(MMLogger.get_current_instance(), 'log', lambda level, text, *rest, **more: lines.append(text))
    dataset = ImageFolder(data_root=str(broken), pipeline=PIPELINE)
    (broken / 'cat' / '0.jpg').unlink()
    for _ in range(2):
        batch = stack_samples([dataset[i] for i in range(6)])
        assert [sample.gt_label for sample in batch['data_samples']] == [1] * 6
    assert dataset.skipped_samples() == [(f'{broken}/cat/{i}.jpg', reason) for i, reason in enumerate(REASONS)]
    skipped = [line for line in lines if line.startswith('Skipped in training')]
    assert sorted(re.search(r'\d.jpg: \w+', line).group() for line in skipped) == [
        '0.jpg: missing', '1.jpg: empty', '2.jpg: truncated', '3.jpg: undecodable',
    ]


@pytest.mark.parametrize('index', range(4))
def test_testing_refuses_broken_images(broken: Path, index: int) -> None:
    dataset = ImageFolder(data_root=str(broken), pipeline=PIPELINE, test_mode=True)
    (broken / 'cat' / '0.jpg').unlink()
    with pytest.raises(BadSampleError) as caught:
        dataset[index]
    text = str(caught.value)
    assert text.startswith(f'{broken}/cat/{index}.jpg: {REASONS[index].text}')
    assert text.endswith(f'restore the file, or take its image file out of {broken}.')
    assert dataset[4]['data_samples'].gt_label == 1


def test_broken_images_in_one_file(tmp_path: Path) -> None:
    arrays = packed_arrays([0, 1, 1, 0])
    offsets = arrays['train_offset']
    arrays['train_jpeg'] = arrays['train_jpeg'].copy()
    arrays['train_jpeg'][offsets[1] : offsets[2]] = 0
    offsets[3] = offsets[2]  # the third one becomes empty, the fourth one gets its bytes as well
    np.savez(tmp_path / 'images.npz', **arrays)
    settings: dict[str, Any] = dict(ann_file='images.npz', data_root=str(tmp_path), pipeline=PIPELINE)
    dataset = PackedImages(**settings)
    assert {dataset[i]['data_samples'].gt_label for i in range(4)} == {0}
    assert dataset.skipped_samples() == [('images.npz#train/1', Reason.UNDECODABLE), ('images.npz#train/2', Reason.EMPTY)]
    with pytest.raises(BadSampleError, match=r'images.npz#train/1: undecodable .* or take its entry out of .*/images.npz'):
        PackedImages(**settings, test_mode=True)[1]


def test_mistakes_of_the_pipeline_are_not_blamed_on_images(tmp_path: Path) -> None:
    write_folders(tmp_path, {'cat': 1, 'dog': 1})
    crop = dict(type='dynperceiver_cls.CenterCrop', size=100)
    dataset = ImageFolder(data_root=str(tmp_path), pipeline=[PIPELINE[0], crop, PIPELINE[1]])
    with pytest.raises(ValueError, match='has no centre of 100 x 100'):
        dataset[0]
    assert dataset.skipped_samples() == []


def test_lazy_and_class_balanced(tmp_path: Path) -> None:
    dataset = ImageFolder(data_root=str(tmp_path / 'later'), pipeline=PIPELINE, lazy_init=True)
    write_folders(tmp_path / 'later', {'cat': 1, 'dog': 5})
    dataset.full_init()
    balanced = ClassBalancedDataset(dataset, oversample_thr=0.9)
    labels = [balanced[i]['data_samples'].gt_label for i in range(len(balanced))]
    assert labels.count(0) > 1 and labels.count(1) >= 5
