"""Which samples are held out from training: seeded, the same share of every class, and whole groups where samples belong together.

The choice depends on the samples' names, labels and groups, on the share and on the seed, and on nothing else: not on the order in which a
file system or a list gives the samples, not on the folder that they lie in, not on the machine or the versions of Python and NumPy. Names
are ordered by their SHA-256, so that the choice follows neither dates nor numbers in them.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np

from dynperceiver_runtime import UserError

from .texts import in_words

__all__ = ['digest_of_samples', 'last_of_each_class', 'split_held_out']

_UNIT = 1 << 40  # of the weights of classes; whole numbers give the same sums in any order and on any machine
_MAX_REPAIRS = 20_000
_MAX_EXCHANGES = 100_000  # pairs of groups that are looked at
_NEAR = 10  # shares within a tenth of what was asked are near enough; the nearest would be the same whatever the seed


def split_held_out(
    names: Sequence[str], labels: Sequence[Hashable], holdout: float, seed: int = 0, groups: Sequence[str] | None = None
) -> np.ndarray:
    """Choose the samples to hold out.

    Samples of one group stay together. Without ``groups`` every sample is a group of its own; samples of the same name are one sample that
    is listed repeatedly, and stay together, too. Of ``n`` samples of a class, ``round(n * holdout)`` are held out, at least 1. Where groups
    do not allow that for all classes at once, the shares come as near as a search finds, and every class keeps a sample in each part. The
    fewer groups there are, the less is left to the seed.

    Without groups, a larger share holds out the same samples and more, and a sample that is added to the data moves few of the others.

    Args:
        names: Name of every sample, such as a path that counts from the data set's folder.
        labels: Class of every sample.
        holdout: Share to hold out, in (0, 1).
        seed: Another seed gives another choice.
        groups: Name of every sample's group, such as a person, a scene or a video.

    Returns:
        held_out_S, bool; true for the samples to hold out.

    Raises:
        UserError: If a class has too few samples or groups for both parts, or a sample has no group or two of them.
    """
    keys = _keys_of_groups(names, labels, groups)
    totals = Counter(labels)
    targets = _targets(totals, holdout)
    order = sorted(set(keys), key=lambda key: _rank(seed, key))
    if len(order) == len(keys):
        held_out = _first_of_each_class(order, dict(zip(keys, labels, strict=True)), targets)
    else:
        members: dict[str, Counter[Hashable]] = {key: Counter() for key in order}
        for key, label in zip(keys, labels, strict=True):
            members[key][label] += 1
        _require_groups(members, totals, 'name' if groups is None else 'group')
        search = _Search(list(members.values()), totals, targets, seed)
        held_out = {key for key, chosen in zip(order, search.run(), strict=True) if chosen}
    return np.array([key in held_out for key in keys], dtype=bool)


def last_of_each_class(labels: Sequence[Hashable], holdout: float) -> np.ndarray:
    """Choose the last samples of every class, in the order of the list.

    This was the choice before there were seeds. Where names begin with a date, or a camera's number, these samples are another
    distribution than the others.

    Args:
        labels: Class of every sample.
        holdout: Share to hold out, in (0, 1).

    Returns:
        held_out_S, bool.

    Raises:
        UserError: If a class has too few samples for both parts.
    """
    totals = Counter(labels)
    targets = _targets(totals, holdout)
    seen: Counter[Hashable] = Counter()
    held_out = []
    for label in labels:
        seen[label] += 1
        held_out.append(seen[label] > totals[label] - targets[label])
    return np.array(held_out, dtype=bool)


def digest_of_samples(names: Sequence[str], labels: Sequence[Hashable], groups: Sequence[str] | None = None) -> str:
    """Digest of the names, labels and groups of all samples, in whatever order they come.

    Args:
        names: See :func:`split_held_out`.
        labels: See there.
        groups: See there.

    Returns:
        64 hexadecimal digits, of the sum of the samples' SHA-256.
    """
    samples = zip(names, labels, names if groups is None else groups, strict=True)
    total = sum(int.from_bytes(_sha256(f'{name}\n{label}\n{group}'), 'big') for name, label, group in samples)
    return f'{total % (1 << 256):064x}'


def _sha256(text: str) -> bytes:
    # NFC, because some file systems take é apart; file names that are no Unicode text have lone surrogates.
    return hashlib.sha256(unicodedata.normalize('NFC', text).encode('utf-8', 'surrogatepass')).digest()


def _rank(seed: int, text: str) -> bytes:
    return _sha256(f'{seed}\n{text}')


def _keys_of_groups(names: Sequence[str], labels: Sequence[Hashable], groups: Sequence[str] | None) -> list[str]:
    lengths = [len(values) for values in (names, labels, groups) if values is not None]
    if len(set(lengths)) > 1:
        raise UserError(f'there must be a name, a label and a group per sample, but there are {in_words(lengths)}; pass equally many.')
    names = [unicodedata.normalize('NFC', name) for name in names]
    if groups is None:
        return names
    keys = [unicodedata.normalize('NFC', group) for group in groups]
    empty = [name for name, key in zip(names, keys, strict=True) if not key]
    if empty:
        raise UserError(f'{len(empty)} of {len(names)} samples have no group: {in_words(empty)}; name a group for each.')
    known: dict[str, str] = {}
    for name, key in zip(names, keys, strict=True):
        if known.setdefault(name, key) != key:
            raise UserError(f'{name} is listed in two groups, {known[name]!r} and {key!r}; list it once, or in one group.')
    return keys


def _first_of_each_class(order: Sequence[str], label_of: Mapping[str, Hashable], targets: Mapping[Hashable, int]) -> set[str]:
    """The first samples of every class; what the search would choose where groups are single samples, in less time."""
    left, held_out = dict(targets), set()
    for key in order:
        if left[label_of[key]]:
            left[label_of[key]] -= 1
            held_out.add(key)
    return held_out


def _targets(totals: Mapping[Hashable, int], holdout: float) -> dict[Hashable, int]:
    if not 0 < holdout < 1:
        raise UserError(f'holdout={holdout} must lie in (0, 1); holdout=0.1 holds out a tenth of every class.')
    if not totals:
        raise UserError('there is no sample to split; check the list or the folder of the data.')
    targets = {label: max(1, round(count * holdout)) for label, count in totals.items()}
    short = sorted((label for label in totals if targets[label] >= totals[label]), key=str)
    if short:
        raise UserError(
            f'with holdout={holdout}, classes {in_words(short)} have no sample left for training '
            f'(class {short[0]} has {totals[short[0]]}); lower holdout, or add samples.'
        )
    return targets


def _require_groups(members: Mapping[str, Counter[Hashable]], totals: Mapping[Hashable, int], kind: str) -> None:
    if len(members) == 1:
        raise UserError(
            f'all {sum(totals.values())} samples have the same {kind}, {next(iter(members))!r}, and samples of one {kind} are never split; '
            'at least two are needed. Check what the groups are read from.'
        )
    num_groups: Counter[Hashable] = Counter(label for counts in members.values() for label in counts)
    lonely = sorted((label for label, count in num_groups.items() if count == 1), key=str)
    if lonely:
        first = next(key for key, counts in members.items() if lonely[0] in counts)
        raise UserError(
            f'classes {in_words(lonely)} have all of their samples in one {kind} (class {lonely[0]} has {totals[lonely[0]]}, all of '
            f'{first!r}), and samples of one {kind} are never split, so that one part would lack the class; add samples of another {kind}, '
            'or check what the groups are read from.'
        )


class _Search:
    """Which groups to hold out so that every class comes near its target.

    Args:
        groups: Number of samples of each class, for every group, in the order of the draw.
        totals: Samples of every class.
        targets: Samples of every class to hold out.
        seed: For the repairs.
    """

    def __init__(
        self, groups: Sequence[Counter[Hashable]], totals: Mapping[Hashable, int], targets: Mapping[Hashable, int], seed: int
    ) -> None:
        self.groups, self.totals, self.targets, self.seed = groups, totals, targets, seed
        self.held_out = dict.fromkeys(totals, 0)
        self._labels = sorted(totals, key=str)
        self.chosen = [False] * len(groups)
        self.weights = {label: _UNIT // target for label, target in targets.items()}
        # What it costs that a part lacks a class: more than all shares together can.
        self.missing = 1 + sum(self.weights[label] * total**2 for label, total in totals.items())

    def run(self) -> list[bool]:
        """Draw groups one after the other, then mend.

        Raises:
            UserError: If no choice was found that leaves every class in both parts.
        """
        for i in range(len(self.groups)):
            if self._change(i, missing=0) < 0:
                self._move(i)
        self._improve()
        self._repair()
        self._improve()
        self._exchange()
        return self.chosen

    def _move(self, i: int) -> None:
        sign = -1 if self.chosen[i] else 1
        self.chosen[i] = not self.chosen[i]
        for label, count in self.groups[i].items():
            self.held_out[label] += sign * count

    def _cost(self, label: Hashable, held_out: int, missing: int) -> int:
        lacking = held_out in (0, self.totals[label])
        return self.weights[label] * (held_out - self.targets[label]) ** 2 + (missing if lacking else 0)

    def _change(self, i: int, missing: int) -> int:
        """What moving a group to the other part would add to the cost."""
        sign = -1 if self.chosen[i] else 1
        return sum(
            self._cost(label, self.held_out[label] + sign * count, missing) - self._cost(label, self.held_out[label], missing)
            for label, count in self.groups[i].items()
        )

    def _improve(self) -> None:
        """Move single groups as long as that helps."""
        helped = True
        while helped:
            helped = False
            for i in range(len(self.groups)):
                if self._change(i, self.missing) < 0:
                    self._move(i)
                    helped = True

    def _exchange(self) -> None:
        """Exchange two groups of a class that is far off its target, as long as that helps."""
        of_class, left, helped = self._groups_of_class(), _MAX_EXCHANGES, True
        while helped:
            helped = False
            for i, j in self._pairs(of_class):
                change = self._change(i, self.missing)
                self._move(i)
                better = change + self._change(j, self.missing) < 0
                self._move(j if better else i)
                helped |= better
                left -= 1
                if left == 0:
                    return

    def _pairs(self, of_class: Mapping[Hashable, Sequence[int]]) -> Iterator[tuple[int, int]]:
        """A group of each part, for every class that is far off its target."""
        for label in self._labels:
            for i, j in combinations(of_class[label], 2):
                if _NEAR * abs(self.held_out[label] - self.targets[label]) <= self.targets[label]:
                    break
                if self.chosen[i] != self.chosen[j]:
                    yield i, j

    def _groups_of_class(self) -> dict[Hashable, list[int]]:
        of_class: dict[Hashable, list[int]] = {label: [] for label in self.totals}
        for i, counts in enumerate(self.groups):
            for label in counts:
                of_class[label].append(i)
        return of_class

    def _repair(self) -> None:
        """Walk at random until no part lacks a class, which for problems of this kind (2-SAT) is known to lead there."""
        of_class = self._groups_of_class()
        for step in range(_MAX_REPAIRS):
            lacking = [label for label in self._labels if self.held_out[label] in (0, self.totals[label])]
            if not lacking:
                return
            draw = int.from_bytes(_rank(self.seed, f'repair {step}')[:8], 'big')
            candidates = of_class[lacking[draw % len(lacking)]]
            self._move(candidates[draw // len(lacking) % len(candidates)])
        raise UserError(
            'no choice of groups was found that leaves samples of every class in both parts, because too few groups have several classes '
            f'each; what came nearest leaves classes {in_words(lacking)} out of one. Add samples of other groups, or name finer groups.'
        )
