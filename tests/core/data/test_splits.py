"""Held-out samples: a fair sample of every class, whole groups, the same choice everywhere, and clear words where there is none."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
import pytest

from dynperceiver.data import digest_of_samples, last_of_each_class, split_held_out
from dynperceiver.data.splits import _first_of_each_class, _rank, _Search, _targets

DAYS = [f'2021-{month:02}-{day:02}' for month in range(1, 13) for day in range(1, 29)]


def chosen(
    names: Sequence[str], labels: Sequence[Hashable], holdout: float, seed: int = 0, groups: Sequence[str] | None = None
) -> set[str]:
    """Names of the held-out samples."""
    return {name for name, out in zip(names, split_held_out(names, labels, holdout, seed, groups), strict=True) if out}


def numbers(labels: Sequence[Hashable], held_out_S: np.ndarray) -> dict[Hashable, int]:
    """Held-out samples of every class."""
    return dict(Counter(label for label, out in zip(labels, held_out_S, strict=True) if out))


# The same choice everywhere.


def test_choice_is_that_of_sha256() -> None:
    """Golden: `printf '0\\nNAME' | sha256sum` orders the names, and the first of every class are held out."""
    names = ['a/0.png', 'a/1.png', 'a/2.png', 'a/3.png', 'a/4.png', 'b/é.png', 'b/1.png', 'b/2.png']
    labels = [0] * 5 + [1] * 3
    assert chosen(names, labels, 0.4) == {'a/0.png', 'a/4.png', 'b/1.png'}
    assert chosen(names, labels, 0.6) == {'a/0.png', 'a/4.png', 'a/3.png', 'b/1.png', 'b/é.png'}
    assert chosen(names, labels, 0.4, seed=1) == {'a/3.png', 'a/4.png', 'b/2.png'}
    names = [f'{scene}{number}' for scene in 'pqrstu' for number in range(6)]
    groups = [name[0] for name in names]
    assert {name[0] for name in chosen(names, [i % 3 for i in range(36)], 0.3, groups=groups)} == {'r', 't'}


@pytest.mark.parametrize('grouped', [False, True])
def test_choice_does_not_depend_on_the_order_of_the_list(grouped: bool) -> None:
    rng = np.random.default_rng(0)
    names = [f'{number:03}.png' for number in range(300)]
    labels, groups = rng.integers(0, 7, 300).tolist(), [f'person{number}' for number in rng.integers(0, 40, 300)]
    expected = chosen(names, labels, 0.2, groups=groups if grouped else None)
    for _ in range(5):
        order = rng.permutation(300)
        shuffled = [[values[i] for i in order] for values in (names, labels, groups)]
        assert chosen(shuffled[0], shuffled[1], 0.2, groups=shuffled[2] if grouped else None) == expected


def test_seeds_and_shares() -> None:
    names, labels = [f'{number}.png' for number in range(500)], [number % 5 for number in range(500)]
    tenth = chosen(names, labels, 0.1)
    assert tenth < chosen(names, labels, 0.2), 'a larger share holds out the same and more'
    others = [chosen(names, labels, 0.1, seed) for seed in (1, 2, -1, 10**12)]
    assert all(len(other) == 50 and len(tenth & other) < 20 for other in others)


def test_added_samples_leave_nearly_all_others_where_they_are() -> None:
    names, labels = [f'{number}.png' for number in range(1000)], [number % 2 for number in range(1000)]
    more = [f'new{number}.png' for number in range(100)]
    before, after = chosen(names, labels, 0.1), chosen(names + more, labels + [0, 1] * 50, 0.1)
    assert len((after & set(names)) - before) <= 8 and len(before - after) <= 8


def test_letters_that_a_file_system_takes_apart_are_the_same() -> None:
    names = [f'Zoë/{letter}{number}.png' for letter in 'äéñ' for number in range(10)] + ['\udce4.png', '犬.png']
    labels = [0] * 31 + ['犬']
    with pytest.raises(ValueError, match=r'classes 犬 have no sample left for training \(class 犬 has 1\)'):
        split_held_out(names, labels, 0.3)
    taken_apart = [unicodedata.normalize('NFD', name) for name in names]
    assert taken_apart != names
    labels = [0] * 16 + ['犬'] * 16
    assert split_held_out(names, labels, 0.3).tolist() == split_held_out(taken_apart, labels, 0.3).tolist()
    groups = [name.split('/')[-1][0] for name in names]
    apart = [unicodedata.normalize('NFD', group) for group in groups]
    assert split_held_out(names, [0] * 32, 0.3, 0, groups).tolist() == split_held_out(taken_apart, [0] * 32, 0.3, 0, apart).tolist()
    assert digest_of_samples(names, labels) == digest_of_samples(taken_apart, labels)


def test_both_forms_of_a_letter_in_one_list_are_one_name() -> None:
    whole = [f'é{number}' for number in range(40)]
    both = [name for pair in zip(whole, (unicodedata.normalize('NFD', name) for name in whole), strict=True) for name in pair]
    held_out_S = split_held_out(both, [0] * 80, 5 / 80)
    assert held_out_S.sum() == 4 and (held_out_S[::2] == held_out_S[1::2]).all()
    groups = [both[number // 2] for number in range(80)]  # four samples of a person, two of them in each form
    held_out_S = split_held_out([f'{number}.png' for number in range(80)], [0] * 80, 6 / 80, 0, groups)
    assert held_out_S.sum() == 4 and len({unicodedata.normalize('NFC', groups[i]) for i in np.flatnonzero(held_out_S)}) == 1


# A fair sample of every class.


@pytest.mark.parametrize('form', ['{day}_{number:05}.jpg', 'IMG_{number:05}_{day}.jpg', 'class{label}/{day}/{number}.jpg', '{number}.jpg'])
@pytest.mark.parametrize('seed', [0, 1, 2])
def test_dates_of_held_out_samples_are_those_of_all(form: str, seed: int) -> None:
    """Where names begin with dates or running numbers, later days of one class would come last."""
    labels = [number % 4 for number in range(8 * len(DAYS))]
    days = [number // 8 for number in range(8 * len(DAYS))]
    names = [form.format(day=DAYS[day], number=number, label=labels[number]) for number, day in enumerate(days)]
    held_out_S = split_held_out(names, labels, 0.1, seed)
    day_S, label_S = np.array(days), np.array(labels)

    def z_values(held_out_S: np.ndarray) -> list[float]:
        """How far the mean day of each class lies from the overall mean, in standard errors of a random sample."""
        values = []
        for label in range(4):
            inside = label_S == label
            drawn, total = int((held_out_S & inside).sum()), int(inside.sum())
            error = day_S[inside].std() / np.sqrt(drawn) * np.sqrt((total - drawn) / (total - 1))
            values.append(float((day_S[held_out_S & inside].mean() - day_S[inside].mean()) / error))
        return values

    assert max(map(abs, z_values(held_out_S))) < 3.5
    months = np.bincount(day_S[held_out_S] // 28, minlength=12)
    expected = held_out_S.sum() / 12
    assert ((months - expected) ** 2 / expected).sum() < 35, 'chi-square with 11 degrees of freedom: 0.0002'
    assert min(z_values(last_of_each_class(labels, 0.1))) > 10, 'this test would see what it is for'


@pytest.mark.parametrize('holdout', [0.001, 0.02, 0.1, 0.5, 0.9])
def test_every_class_keeps_its_share(holdout: float) -> None:
    labels = [label for label, count in enumerate((11, 25, 100, 333, 1000)) for _ in range(count)]
    held_out_S = split_held_out([f'{number}' for number in range(len(labels))], labels, holdout)
    assert numbers(labels, held_out_S) == {label: max(1, round(labels.count(label) * holdout)) for label in range(5)}


def test_samples_of_one_class_and_labels_of_any_kind() -> None:
    names = [f'{number}' for number in range(10)]
    assert split_held_out(names, [7] * 10, 0.3).sum() == 3
    assert chosen(names, ['Ärger', 'joie'] * 5, 0.4) == chosen(names, [0, 1] * 5, 0.4), 'what the classes are called has no part in it'
    numpy_labels = list(np.array([0, 1] * 5))
    assert chosen(names, numpy_labels, 0.4) == chosen(names, [0, 1] * 5, 0.4)


def test_a_sample_that_is_listed_twice_is_not_torn_apart() -> None:
    names = [f'{number // 2}.png' for number in range(200)]
    labels = [number % 2 for number in range(200)]  # with another label, too
    held_out_S = split_held_out(names, labels, 0.25)
    assert (held_out_S[::2] == held_out_S[1::2]).all() and held_out_S.sum() == 50


def test_last_of_each_class_is_what_older_checkpoints_left_out() -> None:
    labels = [1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0]
    assert np.flatnonzero(last_of_each_class(labels, 0.2)).tolist() == [9, 10, 14]
    assert np.flatnonzero(last_of_each_class(labels, 0.01)).tolist() == [10, 14]


# Groups.


def grouped(seed: int, num_groups: int, num_classes: int, mean_size: int) -> tuple[list[str], list[int], list[str]]:
    """Groups of differing sizes, each with its own mixture of classes."""
    rng = np.random.default_rng(seed)
    labels, groups = [], []
    for group in range(num_groups):
        count = 1 + int(rng.poisson(mean_size))
        labels += rng.choice(num_classes, count, p=rng.dirichlet(np.ones(num_classes))).tolist()
        groups += [f'Åsa{group}'] * count
    return [f'{number}.png' for number in range(len(labels))], labels, groups


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize(('num_groups', 'num_classes', 'mean_size', 'off'), [(40, 4, 20, 0.04), (300, 10, 8, 0.02), (12, 2, 30, 0.06)])
def test_groups_never_cross_and_shares_are_kept(seed: int, num_groups: int, num_classes: int, mean_size: int, off: float) -> None:
    names, labels, groups = grouped(seed, num_groups, num_classes, mean_size)
    held_out_S = split_held_out(names, labels, 0.2, seed, groups)
    group_S = np.array(groups)
    assert not set(group_S[held_out_S]) & set(group_S[~held_out_S])
    found = numbers(labels, held_out_S)
    for label in range(num_classes):
        assert abs(found[label] / labels.count(label) - 0.2) < off
    if num_groups > 12:  # where few groups are to choose from, one choice may be the best from everywhere
        assert chosen(names, labels, 0.2, seed + 1, groups) != chosen(names, labels, 0.2, seed, groups)


def test_groups_of_one_sample_are_chosen_as_samples_are() -> None:
    """The search and its short form agree."""
    keys = [f'{number}' for number in range(400)]
    label_of = {key: int(key) ** 2 % 7 for key in keys}
    order = sorted(keys, key=lambda key: _rank(3, key))
    totals = Counter(label_of.values())
    targets = _targets(totals, 0.13)
    search = _Search([Counter([label_of[key]]) for key in order], totals, targets, 3)
    assert {key for key, out in zip(order, search.run(), strict=True) if out} == _first_of_each_class(order, label_of, targets)


def test_one_giant_group_goes_where_there_is_room() -> None:
    labels = [0, 1] * 900 + [0, 1] * 100
    groups = ['giant'] * 1800 + [f'small{number // 10}' for number in range(200)]
    names = [f'{number}' for number in range(2000)]
    held_out_S = split_held_out(names, labels, 0.05, 0, groups)
    assert not held_out_S[:1800].any() and numbers(labels, held_out_S) == {0: 50, 1: 50}
    assert split_held_out(names, labels, 0.9, 0, groups)[:1800].all()


def test_large_groups_are_held_out_where_a_class_has_no_others() -> None:
    groups = ['a'] * 50 + ['b'] * 50 + [f's{number}' for number in range(100)]
    for holdout, number in ((0.1, 10), (0.9, 90)):
        held_out_S = split_held_out([f'{number}' for number in range(200)], [0] * 100 + [1] * 100, holdout, 0, groups)
        assert numbers([0] * 100 + [1] * 100, held_out_S) == {0: 50, 1: number}


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('num_classes', [5, 40])
def test_groups_that_are_chained_by_their_classes(num_classes: int, seed: int) -> None:
    """Group n and n + 1 share class n, so that the parts must take turns: there is no other way."""
    groups = [f'{number + end}' for number in range(num_classes) for end in (0, 1) for _ in range(3)]
    labels = [number for number in range(num_classes) for _ in range(6)]
    held_out_S = split_held_out([f'{number}' for number in range(len(labels))], labels, 0.1, seed, groups)
    assert numbers(labels, held_out_S) == dict.fromkeys(range(num_classes), 3)
    parts = dict(zip(groups, held_out_S.tolist(), strict=True))
    assert all(parts[f'{number}'] != parts[f'{number + 1}'] for number in range(num_classes))


# What cannot be split.


@pytest.mark.parametrize(
    ('labels', 'holdout', 'groups', 'text'),
    [
        ([0, 0, 0, 1], 0.1, None, 'with holdout=0.1, classes 1 have no sample left for training (class 1 has 1); lower holdout, or add'),
        ([0, 0, 1, 1], 0.9, None, 'with holdout=0.9, classes 0, 1 have no sample left for training (class 0 has 2)'),
        ([0, 0, 1, 1], 1.0, None, 'holdout=1.0 must lie in (0, 1); holdout=0.1 holds out a tenth'),
        ([0, 0, 1, 1], float('nan'), None, 'holdout=nan must lie in (0, 1)'),
        ([], 0.1, None, 'there is no sample to split; check the list or the folder'),
        ([0, 0, 1], 0.1, ['a', 'b'], 'there must be a name, a label and a group per sample, but there are 3, 3, 2'),
        ([0, 0, 1, 1], 0.5, ['a'] * 4, "all 4 samples have the same group, 'a', and samples of one group are never split; at least two"),
        ([0, 0, 1, 1], 0.5, ['a', 'b', 'c', 'c'], "classes 1 have all of their samples in one group (class 1 has 2, all of 'c'), and"),
        ([0, 0, 1, 1], 0.5, ['a', '', 'c', 'd'], '1 of 4 samples have no group: 1; name a group for each'),
        ([0, 0, 1, 1, 2, 2], 0.5, ['a', 'b', 'b', 'c', 'a', 'c'], 'no choice of groups was found that leaves samples of every class in'),
    ],
)
def test_what_cannot_be_split_is_said(labels: list[int], holdout: float, groups: list[str] | None, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        split_held_out([f'{number}' for number in range(len(labels))], labels, holdout, 0, groups)


def test_names_that_leave_no_choice_are_said() -> None:
    with pytest.raises(ValueError, match=r"all 3 samples have the same name, 'a\.png', and samples of one name are never split"):
        split_held_out(['a.png'] * 3, [0, 0, 0], 0.3)
    with pytest.raises(ValueError, match=r"a\.png is listed in two groups, 'x' and 'y'; list it once, or in one group"):
        split_held_out(['a.png', 'a.png', 'b.png'], [0, 0, 0], 0.3, 0, ['x', 'y', 'x'])


def test_digest_tells_data_apart() -> None:
    names, labels, groups = ['a', 'b', 'c'], [0, 1, 0], ['x', 'y', 'x']
    first = digest_of_samples(names, labels)
    assert len(first) == 64 and first == digest_of_samples(names[::-1], labels[::-1])
    others = [
        digest_of_samples(['a', 'b', 'd'], labels), digest_of_samples(names, [0, 1, 1]), digest_of_samples(names, labels, groups),
        digest_of_samples(names, labels, ['x', 'y', 'z']), digest_of_samples(names + ['c'], labels + [0]),
    ]
    assert len({first, *others}) == 6
