"""Which part of the data a checkpoint was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..checkpoint import CheckpointError
from ..data import SPLIT_SETTINGS, split_records
from ..registry import HOOKS
from .checkpoint_file import checkpoint_name

__all__ = ['SplitRecordHook']

SAMPLES = ('num_samples', 'digest')


@HOOKS.register_module()
class SplitRecordHook(Hook):
    """Keep in every checkpoint, as ``meta['split_records']``, which part of the data it was trained on.

    ``tools/calibrate.py`` needs it to tell held-out samples from others: the config alone does not say whether files were added since. A
    training is not resumed on another part, because samples that it has seen would be held out from then on. ``tools/train.py`` always
    adds this hook; for other tools, add it to ``custom_hooks``.
    """

    def __init__(self) -> None:
        self._records: list[dict[str, Any]] | None = None
        self._checkpoint = ''
        self._loaded: dict[str, Any] | None = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Remember what the checkpoint says."""
        meta = checkpoint.get('meta')
        self._checkpoint, self._loaded = checkpoint_name(runner), meta if isinstance(meta, dict) else {}

    def before_train(self, runner: Runner) -> None:
        """Look which part this training takes.

        Raises:
            CheckpointError: If a training on another part is resumed.
        """
        records = split_records(runner.train_dataloader.dataset)
        if self._loaded is not None and (runner._resume or runner.iter > 0):
            self._check(records, self._loaded)
        self._records = records

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Write it down."""
        if self._records is not None:
            checkpoint['meta']['split_records'] = self._records

    def _check(self, records: Sequence[dict[str, Any]], meta: dict[str, Any]) -> None:
        trained = meta.get('split_records')
        if trained == records:
            return
        if trained is None:
            # Without a record and a split_seed in its config, the checkpoint may be of a version that took the last samples of a class.
            if 'split_seed' in str(meta.get('cfg')) or all(record['split_seed'] is None for record in records):
                return
            raise CheckpointError(
                f'{self._checkpoint} does not say how the part that it was trained on was chosen; versions that do not record it held out '
                'the last samples of every class. To resume such a training, pass --cfg-options train_dataloader.dataset.split_seed=None, '
                'or start a new training from it with load_from, without --resume.'
            )
        fact = f'was trained on {_in_words(trained)}, and the training data now are {_in_words(records)}'
        if [_settings(record) for record in trained] == [_settings(record) for record in records]:
            fact = f'was trained on a part of other samples: since then some were added, removed, renamed or labelled anew ({fact})'
        raise CheckpointError(
            f'{self._checkpoint} {fact}. A resumed training needs the same part, or samples that it has seen would count as held out; '
            'set train_dataloader.dataset as it was and restore its samples, or start a new training from it with load_from, without '
            '--resume.'
        )


def _settings(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in SAMPLES}


def _in_words(records: Sequence[dict[str, Any]]) -> str:
    texts = []
    for record in records:
        settings = {name: value for name, value in _settings(record).items() if value is not None or name == 'split_seed'}
        listed = ', '.join(f'{name}={settings[name]!r}' for name in ('part', *SPLIT_SETTINGS) if name in settings)
        texts.append(f'{listed} of {record.get("num_samples")} samples')
    return ' and '.join(texts) or 'all samples'
