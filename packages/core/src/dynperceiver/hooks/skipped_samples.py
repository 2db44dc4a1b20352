"""Counts and names the training samples whose files could not be used."""

from __future__ import annotations

import os.path as osp

from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from dynperceiver_runtime.files import write_atomically

from ..data import BadSampleMixin, Reason, innermost_datasets
from ..registry import HOOKS

__all__ = ['SkippedSampleHook']


@HOOKS.register_module()
class SkippedSampleHook(Hook):
    """Says after every training epoch which samples were skipped, and why.

    Logs their number, paths and reasons; writes the paths and reasons of all epochs so far to ``skipped_samples.txt`` in the work
    directory; and records the epoch's number as the scalar ``train/skipped_samples``. Processes of a distributed run are counted together.
    Data sets without :class:`~dynperceiver.data.BadSampleMixin` are passed over.

    Args:
        max_shown: Number of paths in one log message; the file has them all.
        file_name: File in the work directory.
    """

    def __init__(self, max_shown: int = 20, file_name: str = 'skipped_samples.txt') -> None:
        self.max_shown = max_shown
        self.file_name = file_name
        self._known: dict[str, Reason] = {}

    def after_train_epoch(self, runner: Runner) -> None:
        """Report the epoch's skipped samples and start counting anew."""
        datasets = [inner for inner in innermost_datasets(runner.train_dataloader.dataset) if isinstance(inner, BadSampleMixin)]
        if not datasets:
            return
        mine = [pair for dataset in datasets for pair in dataset.skipped_samples()]
        for dataset in datasets:
            dataset.clear_skipped()
        skipped = dict(pair for pairs in all_gather_object(mine) for pair in pairs)
        self._record(runner, len(skipped))
        if skipped and is_main_process():
            path = self._write_all(runner.work_dir, skipped)
            lines = [f'{name}: {reason.text}' for name, reason in sorted(skipped.items())]
            if len(lines) > self.max_shown:
                lines[self.max_shown :] = [f'... and {len(lines) - self.max_shown} more']
            num_samples = sum(len(dataset) for dataset in datasets)
            # With the epoch in front, because MMEngine's logger drops a warning that repeats an earlier one.
            runner.logger.warning(
                f'Epoch {runner.epoch + 1}: {len(skipped)} of {num_samples} training samples were skipped; all in {path}:\n  '
                + '\n  '.join(lines)
            )

    def _record(self, runner: Runner, num_skipped: int) -> None:
        # The scalar of the hub shows in every line of the log from here on, so it is left out for as long as there is nothing to say.
        if num_skipped or self._known:
            runner.message_hub.update_scalar('train/skipped_samples', num_skipped)
        runner.visualizer.add_scalar('train/skipped_samples', num_skipped, step=runner.epoch + 1)

    def _write_all(self, work_dir: str, skipped: dict[str, Reason]) -> str:
        path = osp.join(work_dir, self.file_name)
        if not skipped.items() <= self._known.items():
            self._known.update(skipped)
            write_atomically(path, ''.join(f'{name}\t{reason.text}\n' for name, reason in sorted(self._known.items())))
        return path
