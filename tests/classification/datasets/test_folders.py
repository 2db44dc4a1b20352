"""A folder per class: what counts as an image, how classes are numbered, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.logging import MMLogger
from tiny_images import PIPELINE, write_folders, write_image

from dynperceiver_cls.datasets import ImageFolder


def _found(dataset: ImageFolder, root: Path) -> list[tuple[str, int]]:
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    return [(str(Path(info['img_path']).relative_to(root)), info['gt_label']) for info in infos]


def test_classes_are_sorted_and_images_found_everywhere(tmp_path: Path) -> None:
    write_folders(tmp_path, {'dog': 1, 'cat': 2, 'Zebra': 1})
    write_image(tmp_path / 'cat' / 'deep' / 'er' / 'x.JPeG')
    (tmp_path / 'cat' / 'deep' / 'er' / 'x.JPeG').rename(tmp_path / 'cat' / 'deep' / 'er' / 'X.JPEG')
    (tmp_path / 'cat' / 'named.png').mkdir()
    write_image(tmp_path / 'cat' / 'named.png' / 'y.bmp')
    for name in ('cat/notes.txt', 'cat/._0.png', '.DS_Store', 'README.md'):
        (tmp_path / name).write_text('no image')
    write_image(tmp_path / '.cache' / 'z.png')
    dataset = ImageFolder(data_root=str(tmp_path))
    assert dataset.metainfo['classes'] == ('Zebra', 'cat', 'dog')
    assert _found(dataset, tmp_path) == [
        ('Zebra/0.png', 0), ('cat/0.png', 1), ('cat/1.png', 1), ('cat/deep/er/X.JPEG', 1), ('cat/named.png/y.bmp', 1), ('dog/0.png', 2),
    ]
    assert [info['sample_idx'] for info in map(dataset.get_data_info, range(6))] == list(range(6))
    assert [dataset.get_cat_ids(i) for i in (0, 5)] == [[0], [2]]


def test_links(tmp_path: Path) -> None:
    """A class folder may be a link; a link to a folder within is not followed; a link to nowhere is a broken image, not none."""
    write_folders(tmp_path / 'elsewhere', {'cat': 2})
    root = tmp_path / 'root'
    write_folders(root, {'dog': 1})
    (root / 'cat').symlink_to(tmp_path / 'elsewhere' / 'cat')
    (root / 'dog' / 'loop').symlink_to(root)
    (root / 'dog' / 'loop.png').symlink_to(root)
    (root / 'dog' / 'gone.png').symlink_to(tmp_path / 'nothing')
    dataset = ImageFolder(data_root=str(root))
    assert _found(dataset, root) == [('cat/0.png', 0), ('cat/1.png', 0), ('dog/0.png', 1), ('dog/gone.png', 1)]


def test_samples_go_through_the_pipeline(tmp_path: Path) -> None:
    write_folders(tmp_path / 'train', {'cat': 1, 'dog': 2})
    dataset = ImageFolder(data_root=str(tmp_path), data_prefix=dict(img_path='train'), pipeline=PIPELINE)
    for i, label in enumerate((0, 1, 1)):
        sample = dataset[i]
        assert sample['inputs'].shape == (3, 4, 6) and np.unique(sample['inputs']).tolist() == [i]
        assert sample['data_samples'].gt_label == label and sample['data_samples'].sample_idx == i


def test_given_classes(tmp_path: Path) -> None:
    write_folders(tmp_path, {'cat': 1, 'dog': 2})
    dataset = ImageFolder(data_root=str(tmp_path), metainfo=dict(classes=['dog', 'cat']))
    assert dataset.metainfo['classes'] == ('dog', 'cat')
    assert _found(dataset, tmp_path) == [('dog/0.png', 0), ('dog/1.png', 0), ('cat/0.png', 1)]
    names = tmp_path.parent / f'{tmp_path.name}.txt'
    names.write_text('dog\ncat\n')
    assert ImageFolder(data_root=str(tmp_path), metainfo=dict(classes=str(names))).metainfo['classes'] == ('dog', 'cat')
    with pytest.raises(FileNotFoundError, match=r"metainfo\['classes'\] is 'gone.txt', but there is no such file .* give a text file"):
        ImageFolder(data_root=str(tmp_path), metainfo=dict(classes='gone.txt'))


def test_extensions(tmp_path: Path) -> None:
    write_folders(tmp_path, {'cat': 1, 'dog': 1}, extension='.png')
    (tmp_path / 'cat' / 'a.XYZ').write_text('')
    (tmp_path / 'dog' / 'a.xyz').write_text('')
    assert _found(ImageFolder(data_root=str(tmp_path), extensions=['.xyz']), tmp_path) == [('cat/a.XYZ', 0), ('dog/a.xyz', 1)]


@pytest.mark.parametrize(
    ('classes', 'text'),
    [
        (('cat', 'dog', 'eel', 'fox'), '2 of 4 classes have no folder: eel, fox. Folders and classes must be the same; correct metainfo'),
        (('cat',), '1 of 2 folders are no class: dog.'),
        (('cat', 'Dog'), '1 of 2 classes have no folder: Dog; 1 of 2 folders are no class: dog.'),
        (('cat', 'dog', 'cat'), "must be different names, but repeats 'cat'; write metainfo=dict(classes="),
        ((), 'must be different names, but is empty; write'),
        (('cat', 5), "must be different names, but is 'cat', 5; write"),
    ],
)
def test_classes_and_folders_must_be_the_same(tmp_path: Path, classes: tuple[Any, ...], text: str) -> None:
    write_folders(tmp_path, {'cat': 1, 'dog': 2})
    with pytest.raises(ValueError, match=re.escape(text)):
        ImageFolder(data_root=str(tmp_path), metainfo=dict(classes=classes))


def test_classes_of_the_training_folder(tmp_path: Path) -> None:
    write_folders(tmp_path / 'train', {'cat': 1, 'dog': 1, 'eel': 1})
    write_folders(tmp_path / 'val', {'dog': 1, 'eel': 1})
    settings: dict[str, Any] = dict(data_root=str(tmp_path), data_prefix=dict(img_path='val'), class_folder='train')
    with pytest.raises(ValueError, match=f'{tmp_path}/val: 1 of 3 classes have no folder: cat'):
        ImageFolder(**settings)
    write_folders(tmp_path / 'val', {'cat': 1})
    assert ImageFolder(**settings).metainfo['classes'] == ('cat', 'dog', 'eel')
    with pytest.raises(ValueError, match=f'{tmp_path}/train: 1 of 3 folders are no class: eel'):
        ImageFolder(**settings, metainfo=dict(classes=('cat', 'dog')))
    with pytest.raises(FileNotFoundError, match=f'folder {tmp_path}/gone is missing'):
        ImageFolder(**{**settings, 'class_folder': 'gone'})


def test_empty_class_folders_are_refused(tmp_path: Path) -> None:
    write_folders(tmp_path, {'cat': 1, 'dog': 0, 'eel': 0})
    (tmp_path / 'dog' / 'x.txt').write_text('')
    with pytest.raises(ValueError, match=f'{tmp_path}: 2 of 3 class folders have no image: dog, eel. Images .* set extensions'):
        ImageFolder(data_root=str(tmp_path))


def test_no_class_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f'{tmp_path} must have a folder for every class, but has no folder. Sort'):
        ImageFolder(data_root=str(tmp_path))
    write_image(tmp_path / 'b.png')
    write_image(tmp_path / 'a.png')
    with pytest.raises(ValueError, match=r'but has only 2 images, for example a.png'):
        ImageFolder(data_root=str(tmp_path))
    with pytest.raises(ValueError, match='there is no folder of images; set data_root'):
        ImageFolder()


def test_images_outside_of_class_folders_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folders(tmp_path, {'cat': 1})
    write_image(tmp_path / 'a.png')
    lines: list[str] = []
    monkeypatch.setattr(MMLogger.get_current_instance(), 'log', lambda level, text, *rest, **more: lines.append(text))
    assert len(ImageFolder(data_root=str(tmp_path))) == 1
    assert any('1 images lie in no class folder and are left out, for example a.png' in line for line in lines)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        ImageFolder(data_root=str(tmp_path), data_prefix=dict(img_path='train'), source='the moon')
    assert f'folder {tmp_path}/train is missing; the data set comes from the moon' in str(caught.value)
    assert 'set data_root, data_prefix and ann_file' in str(caught.value)
