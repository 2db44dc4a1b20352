"""ImageNet's layouts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tiny_images import write_folders, write_image

from dynperceiver_cls.datasets import ImageNet

WNIDS = ('n01440764', 'n01443537', 'n01484850')


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two training images of every class, validation images in folders and in one flat folder with a list."""
    write_folders(tmp_path / 'train', dict.fromkeys(reversed(WNIDS), 2), '.jpg')
    for path in (tmp_path / 'train').glob('*/*.jpg'):
        path.rename(path.with_suffix('.JPEG'))
    write_folders(tmp_path / 'val', dict.fromkeys(WNIDS, 1), '.jpg')
    (tmp_path / 'meta').mkdir()
    (tmp_path / 'meta' / 'val.txt').write_text('ILSVRC2012_val_1.jpg 2\nILSVRC2012_val_2.jpg 0\n\nwith space.jpg 2\n')
    for name in ('ILSVRC2012_val_1.jpg', 'ILSVRC2012_val_2.jpg', 'with space.jpg'):
        write_image(tmp_path / 'flat' / name)
    return tmp_path


def _samples(dataset: ImageNet) -> list[tuple[str, int]]:
    return [(Path(info['img_path']).name, info['gt_label']) for info in map(dataset.get_data_info, range(len(dataset)))]


def test_folders(root: Path) -> None:
    dataset = ImageNet(str(root), num_classes=3)
    assert dataset.metainfo['classes'] == WNIDS
    assert _samples(dataset) == [(f'{i}.JPEG', label) for label in range(3) for i in range(2)]
    assert dataset.get_data_info(0)['img_path'] == f'{root}/train/n01440764/0.JPEG'
    assert _samples(ImageNet(str(root), 'val', num_classes=3)) == [('0.jpg', label) for label in range(3)]


def _flat(root: Path, **arguments: Any) -> ImageNet:
    settings: dict[str, Any] = dict(ann_file='meta/val.txt', data_prefix=dict(img_path='flat'), num_classes=3)
    return ImageNet(str(root), 'val', **{**settings, **arguments})


def test_flat_folder_with_list(root: Path) -> None:
    dataset = _flat(root)
    assert dataset.metainfo['classes'] == WNIDS
    assert _samples(dataset) == [('ILSVRC2012_val_1.jpg', 2), ('ILSVRC2012_val_2.jpg', 0), ('with space.jpg', 2)]
    (root / 'train').rename(root / 'training')
    assert _flat(root).metainfo['classes'] == ('0', '1', '2')


def test_default_is_the_splits_own_folder(root: Path) -> None:
    (root / 'list.txt').write_text('n01440764/0.JPEG 0\n')
    dataset = ImageNet(str(root), 'train', ann_file='list.txt', num_classes=3)
    assert dataset.get_data_info(0)['img_path'] == f'{root}/train/n01440764/0.JPEG'


def test_number_of_classes(root: Path) -> None:
    text = f'{root}/val has 3 class folders (n01440764, n01443537, n01484850), but there must be 1000; unpack all archives, or for'
    with pytest.raises(ValueError, match=re.escape(text)):
        ImageNet(str(root), 'val')
    with pytest.raises(ValueError, match='there are 3 classes, but num_classes=4; set num_classes=3'):
        _flat(root, num_classes=4)


@pytest.mark.parametrize(
    ('line', 'text'),
    [
        ('x.jpg 3', '1 labels are out of range, for example 3 of x.jpg; there are 3 classes, numbered from 0. Subtract 1'),
        ('x.jpg -1', "val.txt, line 5: 'x.jpg -1' must be a name, a space and a class number of 0 or more"),
        ('x.jpg', "val.txt, line 5: 'x.jpg' must be a name, a space"),
        ('x.jpg,1', "line 5: 'x.jpg,1' must be a name, a space"),
    ],
)
def test_mistakes_in_the_list(root: Path, line: str, text: str) -> None:
    with open(root / 'meta' / 'val.txt', 'a') as file:
        file.write(f'{line}\n')
    with pytest.raises(ValueError, match=re.escape(text)):
        _flat(root)


def test_what_is_missing_is_named(root: Path) -> None:
    (root / 'flat' / 'with space.jpg').unlink()
    with pytest.raises(FileNotFoundError, match=r'val.txt: 1 of 3 images are missing: .*/flat/with space.jpg; unpack the images'):
        _flat(root)
    with pytest.raises(FileNotFoundError, match=r'3 of 3 images are missing.* data_prefix may point to another folder'):
        _flat(root, data_prefix=dict(img_path='val'))
    (root / 'meta' / 'val.txt').write_text('\n')
    with pytest.raises(ValueError, match=r'val.txt names no image'):
        _flat(root)
    with pytest.raises(FileNotFoundError, match=r'gone.txt is missing; the data set comes from ImageNet-1k .*image-net.org'):
        _flat(root, ann_file='gone.txt')
    with pytest.raises(FileNotFoundError, match=r'folder .*/nowhere/train is missing'):
        ImageNet(str(root / 'nowhere'))
    with pytest.raises(ValueError, match="split='test' must be 'train' or 'val'; ImageNet's test images have no public labels"):
        ImageNet(str(root), 'test')
