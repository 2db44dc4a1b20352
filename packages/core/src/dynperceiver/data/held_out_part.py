"""Data sets of which one part is held out from training."""

from __future__ import annotations

import logging
import posixpath
import re
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from dynperceiver_runtime import UserError

from .splits import digest_of_samples, last_of_each_class, split_held_out
from .texts import in_words
from .wrappers import innermost_datasets

__all__ = ['PARTS', 'SPLIT_SETTINGS', 'HeldOutPartMixin', 'split_records']

PARTS = ('all', 'train', 'holdout')
# What the parts depend on, beside the samples: arguments of data sets, with their defaults.
SPLIT_SETTINGS: Mapping[str, Any] = MappingProxyType(dict(holdout=None, split_seed=0, group_pattern=None, group_column=None))


class HeldOutPartMixin(BaseDataset):
    """Splits a data set in a part to train on and a part that is held out from training.

    Goes before a data set class. The parts never overlap, and with the same samples and arguments they are the same in every run, on every
    machine, and in whatever order the samples are listed; see :func:`~dynperceiver.data.split_held_out`. A sample is known by its path
    below the folder of the data: moving the folder changes nothing, and renaming files within it makes another choice.

    A subclass says what it knows of a sample by overriding :meth:`split_name`, :meth:`split_label` and :meth:`split_group`.

    Args:
        args: Passed on to the data set class.
        part: ``'all'``, or one part of the split: ``'train'`` or ``'holdout'``.
        holdout: Share of every class's samples that is held out, in (0, 1); needed unless ``part='all'``.
        split_seed: Seed of the choice. ``None`` holds out the last samples of every class in the order of the list, as versions without
            this argument did; that is for checkpoints that were trained by them.
        group_pattern: Regular expression that is searched for in a sample's path, counted from the folder of the data, with ``/`` between
            folders. What its parentheses match, or all of it where there are none, is the sample's group; samples of a group stay in one
            part. ``r'([^/]*)_\\d+\\.'`` takes ``scene4`` from ``cat/scene4_017.jpg``, ``r'^[^/]*/([^/]*)/'`` takes ``anna`` from
            ``cat/anna/017.jpg``, and ``r'_(g\\d+)_'`` takes ``g01`` from ``Archery/v_Archery_g01_c03.avi``.
        kwargs: Passed on to the data set class.

    Raises:
        UserError: If an argument is out of its range; and when the data is loaded, if it cannot be split so.
    """

    def __init__(
        self,
        *args: Any,
        part: str = 'all',
        holdout: float | None = None,
        split_seed: int | None = 0,
        group_pattern: str | None = None,
        **kwargs: Any,
    ) -> None:
        if part not in PARTS:
            raise UserError(f"part={part!r} must be one of {PARTS}; 'all' takes every sample.")
        if part != 'all' and not (isinstance(holdout, int | float) and 0 < holdout < 1):
            raise UserError(f'holdout={holdout} must lie in (0, 1) with part={part!r}; holdout=0.1 holds out a tenth of every class.')
        if split_seed is not None and (isinstance(split_seed, bool) or not isinstance(split_seed, int)):
            raise UserError(f'split_seed={split_seed!r} must be a whole number, or None for the last samples of every class.')
        if group_pattern is not None:
            try:
                re.compile(group_pattern)
            except (re.error, TypeError) as error:
                raise UserError(
                    f"group_pattern={group_pattern!r} is no regular expression ({error}); write one such as r'([^/]*)_', in the config "
                    'rather than on the command line where it has commas or spaces.'
                ) from error
        self.part = part
        self.holdout = holdout
        self.split_seed = split_seed
        self.group_pattern = group_pattern
        self._all_samples: dict[str, Any] = {}
        super().__init__(*args, **kwargs)

    # What a kind of data set overrides.

    def split_name(self, info: dict[str, Any]) -> str:
        """Return the name that a sample is known by: its path below the folder of the data."""
        path = self.sample_path(info).replace('\\', '/')
        for prefix in self.data_prefix.values():
            folder = prefix.replace('\\', '/').rstrip('/') + '/'
            if prefix and path.startswith(folder):
                path = path[len(folder) :]
                break
        return posixpath.normpath(path)

    def split_label(self, info: dict[str, Any]) -> int | None:
        """Return the class of a sample, None if it has not exactly one."""
        return info.get('gt_label')

    def split_group(self, info: dict[str, Any]) -> str | None:
        """Return the group of a sample where the annotation has groups, or None; all samples must have one, or none."""
        return info.get('group')

    # What BaseDataset calls.

    def filter_data(self) -> list[dict[str, Any]]:
        """Keep one part of the samples, in their order.

        Raises:
            UserError: If a sample has no label or no group, or a class cannot be split.
        """
        infos = super().filter_data()
        if self.part == 'all' or self.holdout is None:
            return infos
        labels = [self.split_label(info) for info in infos]
        if None in labels:
            raise UserError(
                f"{self.ann_file}: part={self.part!r} needs one label for every sample, and {labels.count(None)} of {len(labels)} have "
                "none or several; use part='all' for such samples."
            )
        names = [self.split_name(info) for info in infos]
        groups = self._groups(infos, names)
        try:
            if self.split_seed is None:
                held_out_S = last_of_each_class(labels, self.holdout)
            else:
                held_out_S = split_held_out(names, labels, self.holdout, self.split_seed, groups)
        except UserError as error:
            raise UserError(f'{self.ann_file}: {error}') from error
        if groups is not None:
            self._warn_of_shares(labels, held_out_S, self.holdout)
        self._all_samples = dict(num_samples=len(infos), digest=digest_of_samples(names, labels, groups))
        wanted_S = held_out_S if self.part == 'holdout' else ~held_out_S
        return [info for info, wanted in zip(infos, wanted_S, strict=True) if wanted]

    # What hooks and checks of held-out data ask for.

    def split_record(self) -> dict[str, Any]:
        """What this part depends on, for the record in a checkpoint: the settings, and number and digest of the samples of all parts."""
        self.full_init()
        settings = {name: getattr(self, name, default) for name, default in SPLIT_SETTINGS.items()}
        return dict(part=self.part, **settings, **self._all_samples)

    def _groups(self, infos: list[dict[str, Any]], names: list[str]) -> list[str] | None:
        if self.group_pattern is not None:
            groups = [_group_in(self.group_pattern, name) for name in names]
            without = [name for name, group in zip(names, groups, strict=True) if not group]
            if without:
                raise UserError(
                    f'{self.ann_file}: group_pattern={self.group_pattern!r} finds no group in {len(without)} of {len(names)} paths, for '
                    f'example {without[0]!r}; every sample needs one. Correct the pattern, which is searched for in these paths.'
                )
        else:
            groups = [self.split_group(info) or '' for info in infos]
            if not any(groups):
                return None
        if self.split_seed is None:
            raise UserError(
                f'{self.ann_file}: split_seed=None takes the last samples of every class, whatever their groups; set split_seed=0.'
            )
        return groups

    def _warn_of_shares(self, labels: list[Any], held_out_S: np.ndarray, holdout: float) -> None:
        totals, held_out = Counter(labels), Counter(label for label, out in zip(labels, held_out_S, strict=True) if out)
        wanted = {label: max(1, round(total * holdout)) for label, total in totals.items()}
        off = sorted(label for label, number in wanted.items() if not number <= 2 * held_out[label] <= 4 * number)
        if off:
            print_log(
                f'{self.ann_file}: groups stay together, so that classes {in_words(off)} are held out in another share than '
                f'holdout={holdout} (class {off[0]}: {held_out[off[0]]} of {totals[off[0]]} samples)',
                logger='current',
                level=logging.WARNING,
            )


def _group_in(pattern: str, name: str) -> str:
    match = re.search(pattern, name)
    if match is None:
        return ''
    return '/'.join(part or '' for part in match.groups()).strip('/') if match.re.groups else match.group()


def split_records(dataset: Any) -> list[dict[str, Any]]:
    """What the parts of split data sets depend on; data sets that are taken as a whole are left out.

    Args:
        dataset: A data set, or a wrapper around some.

    Returns:
        For each part its ``part``, the settings in :data:`~dynperceiver.data.SPLIT_SETTINGS`, and ``num_samples`` and ``digest`` of the
        samples of all parts.
    """
    inner = innermost_datasets(dataset)
    return [part.split_record() for part in inner if isinstance(part, HeldOutPartMixin) and part.part != 'all']
