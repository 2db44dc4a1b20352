"""Refuse a checkpoint whose classes are not the data set's."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmengine.runner.loops import BaseLoop

from ..checkpoint import CheckpointError
from ..data import innermost_datasets
from ..registry import HOOKS
from .checkpoint_file import checkpoint_name

__all__ = ['ClassNamesHook']


def _names(metainfo: Any) -> tuple[str, ...]:
    """Class names of a data set's or a checkpoint's metainfo, in label order; none where it has none, or only the labels' numbers."""
    if not isinstance(metainfo, dict):
        return ()
    classes = next((value for key, value in metainfo.items() if str(key).lower() == 'classes'), None)
    if isinstance(classes, str):
        return (classes,)
    names = tuple(map(str, classes)) if isinstance(classes, Sequence) else ()
    return () if names == tuple(map(str, range(len(names)))) else names


def _differences(trained: Sequence[str], given: Sequence[str], source: str, limit: int = 3) -> str:
    def name(names: Sequence[str], label: int) -> str:
        return repr(names[label]) if label < len(names) else 'none'

    longest = max(len(trained), len(given))
    places = [label for label in range(longest) if name(trained, label) != name(given, label)]
    listed = '; '.join(f'class {label} is {name(trained, label)} there and {name(given, label)} here' for label in places[:limit])
    more = f'; and {len(places) - limit} more' if len(places) > limit else ''
    order = 'the same names in another order: ' if sorted(trained) == sorted(given) else ''
    return f'{len(trained)} names in {source}, {len(given)} in the data set, {order}{listed}{more}'


@HOOKS.register_module()
class ClassNamesHook(Hook):
    """Compare the class names in a checkpoint with those of the data set that it is to be tested or trained on.

    Label 3 of a model is the fourth name of the data set that it was trained on. Testing on a data set with other names, or with the same
    names in another order, would give meaningless scores without an error. It is therefore refused, as is resuming with other names. A new
    training that starts from a checkpoint (``load_from``) may have other classes, which is logged. Nothing is compared if the checkpoint or
    the data set has no names, or only numbers.

    Args:
        strict: Whether to refuse; ``False`` only warns, for names that are known to mean the same (``n01440764`` and ``tench``).
    """

    def __init__(self, strict: bool = True) -> None:
        self.strict = strict
        self._trained: tuple[str, ...] = ()
        self._checkpoint = ''
        self._source = 'the checkpoint'

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Remember the names in the checkpoint."""
        meta = checkpoint.get('meta')
        self._trained = _names(meta.get('dataset_meta')) if isinstance(meta, dict) else ()
        self._checkpoint, self._source = checkpoint_name(runner), 'the checkpoint'

    def before_train(self, runner: Runner) -> None:
        """Check before the first epoch, the validation data, too.

        Raises:
            CheckpointError: If the training is resumed with other names, or the validation data has others than the training data.
        """
        dataset = runner.train_dataloader.dataset
        self._check(dataset, refuse=bool(runner._resume or runner.iter > 0), resumed=True)
        # From here on the weights are of the training set's classes.
        self._trained = next((names for inner in innermost_datasets(dataset) if (names := _names(getattr(inner, 'metainfo', None)))), ())
        self._checkpoint, self._source = 'the model', 'the training set'
        if isinstance(runner._val_loop, BaseLoop):  # built before training begins
            self._check(runner._val_loop.dataloader.dataset, refuse=True)

    def before_val(self, runner: Runner) -> None:
        """Check before a validation, on its own or of a training.

        Raises:
            CheckpointError: If the names differ.
        """
        if self._trained:
            self._check(runner.val_dataloader.dataset, refuse=True)

    def before_test(self, runner: Runner) -> None:
        """Check before a test.

        Raises:
            CheckpointError: If the names differ.
        """
        if self._trained:
            self._check(runner.test_dataloader.dataset, refuse=True)

    def _check(self, dataset: Any, refuse: bool, resumed: bool = False) -> None:
        for inner in innermost_datasets(dataset):
            given = _names(getattr(inner, 'metainfo', None))
            if not self._trained or not given or given == self._trained:
                continue
            differences = _differences(self._trained, given, self._source)
            fact = f'{self._checkpoint} was trained on other classes than {type(inner).__name__} has ({differences})'
            if not refuse:
                print_log(f'{fact}; the new training uses the names of the data set', logger='current', level=logging.WARNING)
            elif not self.strict:
                print_log(f'{fact}; accepted, since ClassNamesHook has strict=False', logger='current', level=logging.WARNING)
            else:
                start = ' To train on other classes, start a new training from it with load_from, without --resume.' if resumed else ''
                raise CheckpointError(
                    f'{fact}. The names must be the same and in the same order, since a label is a position in this list. Use the data set '
                    "that it was trained on, or set the checkpoint's names in the config (metainfo=dict(classes=(...)) of the data set). "
                    f"If the names mean the same, set dict(type='dynperceiver.ClassNamesHook', strict=False).{start}"
                )
            return
