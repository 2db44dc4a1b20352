"""How data sets of images hold a part out: known by paths below their folder, groups by column, pattern or array."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.logging import MMLogger
from tiny_images import packed_arrays, write_cifar10

from dynperceiver.data import HeldOutPartMixin
from dynperceiver_cls.datasets import CIFAR10, CSVImages, ImageFolder, ImageNet, PackedImages

HALVES = ('train', 'holdout')


def _touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def _paths(dataset: HeldOutPartMixin, root: Path) -> list[str]:
    return [os.path.relpath(dataset.get_data_info(i)['img_path'], root) for i in range(len(dataset))]


def _folder(root: Path, part: str = 'holdout', holdout: float = 0.25, **arguments: Any) -> ImageFolder:
    return ImageFolder(data_root=str(root), part=part, holdout=holdout, **arguments)


def _csv(root: Path, text: str, name: str = 'list.csv', **arguments: Any) -> CSVImages:
    (root / name).write_text(text, encoding='utf-8')
    settings = dict(part='holdout', holdout=0.25, data_prefix=dict(img_path='images'))
    return CSVImages(name, data_root=str(root), **{**settings, **arguments})


def test_folders_with_dated_names(tmp_path: Path) -> None:
    """A year of days, eight images a day: the old choice held out December."""
    names = [f'{kind}/2021-{1 + day // 28:02}-{1 + day % 28:02}_{i}.jpg' for kind in ('cat', 'dog') for day in range(336) for i in range(4)]
    _touch(tmp_path, *names)
    held_out = _paths(_folder(tmp_path, holdout=0.1), tmp_path)
    months = np.bincount([int(name.split('-')[1]) for name in held_out], minlength=13)[1:]
    expected = len(held_out) / 12
    assert len(held_out) == 2 * 134 and ((months - expected) ** 2 / expected).sum() < 35
    assert held_out == sorted(held_out), 'in the order of the data set'
    assert sorted(held_out + _paths(_folder(tmp_path, 'train', 0.1), tmp_path)) == sorted(names)
    december = _paths(_folder(tmp_path, holdout=0.1, split_seed=None), tmp_path)
    assert {name.split('-')[1] for name in december} <= {'11', '12'}


def test_the_folder_that_images_lie_in_does_not_matter(tmp_path: Path) -> None:
    names = [f'{kind}/{i}.jpg' for kind in ('cat', 'dog') for i in range(20)]
    first = _paths(_folder(_touch(tmp_path / 'here', *names)), tmp_path / 'here')
    there = _touch(tmp_path / 'there' / 'photos', *names)
    assert _paths(_folder(there), there) == first
    prefixed = ImageFolder(data_root=str(tmp_path / 'there'), data_prefix=dict(img_path='photos/'), part='holdout', holdout=0.25)
    assert _paths(prefixed, there) == first
    (tmp_path / 'link').symlink_to(there)
    assert _paths(_folder(tmp_path / 'link'), tmp_path / 'link') == first
    assert _paths(_folder(there, split_seed=1), there) != first


def test_names_in_other_forms_are_the_same(tmp_path: Path) -> None:
    """Of a letter with an accent, and of a path."""
    names = [f'{i % 2}/Zoë_{i}.jpg' for i in range(40)]
    whole, apart = _touch(tmp_path / 'whole', *names), _touch(tmp_path / 'apart', *(unicodedata.normalize('NFD', name) for name in names))
    expected = sorted(_paths(_folder(whole), whole))
    assert sorted(unicodedata.normalize('NFC', name) for name in _paths(_folder(apart), apart)) == expected
    _touch(tmp_path / 'images', *names)
    lines = [f'{form}{name},{name[0]}' for name, form in zip(names, ['', './', 'x/../', f'{tmp_path}/images/'] * 10, strict=True)]
    (tmp_path / 'images' / 'x').mkdir()
    listed = _csv(tmp_path, 'path,label\n' + '\n'.join(reversed(lines)))
    assert sorted(os.path.normpath(path) for path in _paths(listed, tmp_path / 'images')) == expected


def test_names_that_are_no_text(tmp_path: Path) -> None:
    names = [b'cat/%d\xe4.jpg' % i for i in range(8)]
    _touch(tmp_path, *map(os.fsdecode, names))
    assert len(_folder(tmp_path)) == 2


def test_a_pattern_takes_groups_from_paths(tmp_path: Path) -> None:
    names = [f'{kind}/scene{scene}_{i:03}.jpg' for kind in ('cat', 'dog') for scene in range(12) for i in range(5)]
    _touch(tmp_path, *names)

    def groups(seen: str, pattern: str) -> list[set[str]]:
        """What is seen of each part."""
        both = [_paths(_folder(tmp_path, part, group_pattern=pattern), tmp_path) for part in HALVES]
        return [{re.search(seen, name)[0] for name in names} for names in both]

    for pattern in (r'([^/]*)_\d+\.', r'scene\d+', r'(sc)e(ne\d+)'):  # scenes of all classes
        train, holdout = groups(r'scene\d+', pattern)
        assert len(train) == 9 and len(holdout) == 3 and not train & holdout
    train, holdout = groups(r'.*scene\d+', r'^(.*)_\d+')  # scenes of each class for themselves
    assert len(train) == 18 and len(holdout) == 6 and not train & holdout
    per_image = _paths(_folder(tmp_path), tmp_path)
    assert len({name[:10] for name in per_image}) > 6, 'without groups scenes are torn apart'


def test_sub_folders_as_groups(tmp_path: Path) -> None:
    names = [f'{kind}/{person}/{i}.jpg' for kind in ('run', 'walk') for person in ('anna', 'josé', 'ren', '李') for i in range(6)]
    _touch(tmp_path, *names)
    train, holdout = (_paths(_folder(tmp_path, part, group_pattern=r'^[^/]*/([^/]*)/'), tmp_path) for part in HALVES)
    assert len(holdout) == 12 and len(train) == 36
    assert not {name.split('/')[1] for name in train} & {name.split('/')[1] for name in holdout}


def test_a_column_names_groups(tmp_path: Path) -> None:
    people = ['anna', 'ben', 'chloé', 'dora', ' anna ', unicodedata.normalize('NFD', 'chloé')]
    rows = [(f'{i}.jpg', i % 2, people[i // 2 % 6]) for i in range(48)]
    _touch(tmp_path / 'images', *(row[0] for row in rows))
    text = 'path,label,person\n' + ''.join(f'{path},{label},{person}\n' for path, label, person in rows)
    who = {path: unicodedata.normalize('NFC', person.strip()) for path, _, person in rows}
    parts = [_csv(tmp_path, text, group_column='person', part=part) for part in HALVES]
    train, holdout = ({who[path] for path in _paths(dataset, tmp_path / 'images')} for dataset in parts)
    assert not train & holdout and train | holdout == {'anna', 'ben', 'chloé', 'dora'}
    assert parts[1].get_data_info(0)['group'].strip() == parts[1].get_data_info(0)['group']
    assert parts[1].split_record()['group_column'] == 'person'
    alone = {who[path] for path in _paths(_csv(tmp_path, text), tmp_path / 'images')}
    assert len(alone) == 4, 'without the column people are in both parts'


def test_an_array_names_groups(tmp_path: Path) -> None:
    labels = [i % 2 for i in range(40)]
    for groups in (np.arange(40) // 4, np.array([f'vidéo {i // 4}' for i in range(40)])):
        np.savez(tmp_path / 'images.npz', **packed_arrays(labels), train_group=groups)
        both = [PackedImages('images.npz', data_root=str(tmp_path), part=part, holdout=0.2) for part in HALVES]
        train, holdout = ({int(path.split('/')[1]) // 4 for path in _paths(dataset, Path())} for dataset in both)
        assert len(holdout) == 2 and len(train) == 8 and not train & holdout
    os.rename(tmp_path / 'images.npz', tmp_path / 'renamed.npz')
    renamed = PackedImages('renamed.npz', data_root=str(tmp_path), part='holdout', holdout=0.2)
    assert {int(path.split('/')[1]) // 4 for path in _paths(renamed, Path())} == holdout


def test_the_name_of_an_archive_does_not_matter(tmp_path: Path) -> None:
    numbers = []
    for name in ('a.npz', 'b.npz'):
        np.savez(tmp_path / name, **packed_arrays([i % 2 for i in range(60)]))
        held_out = PackedImages(name, data_root=str(tmp_path), part='holdout', holdout=0.2)
        numbers.append([path.split('/')[1] for path in _paths(held_out, Path())])
    assert len(numbers[0]) == 12 and numbers[0] == numbers[1]


def test_cifar_and_imagenet_have_parts(tmp_path: Path) -> None:
    write_cifar10(tmp_path, 60)
    both = [CIFAR10(str(tmp_path), part=part, holdout=0.1) for part in HALVES]
    train, holdout = ([int(path.split('/')[-1]) for path in _paths(dataset, tmp_path)] for dataset in both)
    assert sorted(train + holdout) == list(range(300)) and min(holdout) < 100, 'of all batches'
    _touch(tmp_path / 'train', *(f'n{kind}/n{kind}_{i}.JPEG' for kind in (1, 2) for i in range(50)))
    sizes = [len(ImageNet(str(tmp_path), num_classes=2, part=part, holdout=0.02)) for part in HALVES]
    assert sizes == [98, 2]


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        (dict(group_pattern='(scene'), "group_pattern='(scene' is no regular expression (missing ), unterminated subpattern at position 0"),
        (dict(group_pattern=['a', 'b']), "group_pattern=['a', 'b'] is no regular expression"),
        (dict(group_pattern=r'^cat/(\w*?)\d+'), "finds no group in 24 of 24 paths, for example 'cat/0.jpg'; every sample needs one. Cor"),
        (dict(group_pattern='dog/'), "group_pattern='dog/' finds no group in 16 of 24 paths, for example 'cat/0.jpg'"),
        (dict(group_pattern='.(jpg)'), "all 24 samples have the same group, 'jpg', and samples of one group are never split"),
        (dict(group_pattern='^([^/]*)/'), "classes 0, 1, 2 have all of their samples in one group (class 0 has 8, all of 'cat')"),
        (dict(group_pattern='[0-9]', split_seed=None), 'split_seed=None takes the last samples of every class, whatever their groups'),
    ],
)
def test_patterns_that_give_no_groups(tmp_path: Path, arguments: dict[str, Any], text: str) -> None:
    _touch(tmp_path, *(f'{kind}/{i}.jpg' for kind in ('cat', 'dog', 'eel') for i in range(8)))
    with pytest.raises(ValueError, match=re.escape(text)):
        _folder(tmp_path, **arguments)


def test_columns_and_arrays_that_give_no_groups(tmp_path: Path) -> None:
    _touch(tmp_path / 'images', 'a.jpg', 'b.jpg', 'c.jpg', 'd.jpg')
    text = 'path,label,who\na.jpg,0,x\nb.jpg,0, \nc.jpg,1,x\nd.jpg,1,y\n'
    with pytest.raises(ValueError, match=r'list\.csv, line 3: who is empty; write what the image belongs to'):
        _csv(tmp_path, text, group_column='who')
    with pytest.raises(ValueError, match=r"line 1: the header 'path, label, who' lacks person; .* for example 'path,label,person'"):
        _csv(tmp_path, text, group_column='person')
    with pytest.raises(ValueError, match="group_column='who' and group_pattern='a' both say what the groups are; leave one out"):
        _csv(tmp_path, text, group_column='who', group_pattern='a')
    with pytest.raises(ValueError, match=r'list\.csv: classes 0 have all of their samples in one group \(class 0 has 2, all of .x.\)'):
        _csv(tmp_path, text.replace(', \n', ',x\n'), group_column='who')
    with pytest.raises(ValueError, match=r"group_pattern='a' needs paths, and images of an archive have none; .* array SPLIT_group"):
        PackedImages('images.npz', group_pattern='a')


def test_shares_that_groups_spoil_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(MMLogger.get_current_instance(), 'log', lambda level, text, *rest, **more: lines.append(text))
    large = [f'{kind}/{kind}{i // 20}_{i}.jpg' for kind in ('cat', 'dog') for i in range(40)]
    _touch(tmp_path, *large, *(f'dog/{i}_0.jpg' for i in range(40)))
    _folder(tmp_path, holdout=0.1, group_pattern=r'([^/]*)_')
    (line,) = [line for line in lines if 'groups stay together' in line]
    assert 'classes 0 are held out in another share than holdout=0.1 (class 0: 20 of 40 samples)' in line
    lines.clear()
    _folder(tmp_path, holdout=0.1)
    assert not [line for line in lines if 'groups' in line]
