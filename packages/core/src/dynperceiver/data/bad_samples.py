"""What data sets do about missing data and about files that cannot be decoded."""

from __future__ import annotations

import logging
import os
import os.path as osp
import traceback
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from dynperceiver_runtime import MissingFileError, UserError

from .faults import Fault, Reason

__all__ = ['BadSampleError', 'BadSampleMixin', 'DatasetError']

# Draws of another sample before giving up. BaseDataset's 1000 would decode for minutes before saying that no file is usable.
_MAX_REFETCH = 100


class BadSampleError(UserError):
    """A sample's file cannot be used, and it must not be skipped; the message names the file and what is wrong with it."""


class DatasetError(UserError):
    """Annotations or folders are not as a data set needs them; the message names them and says what to do."""


class BadSampleMixin(BaseDataset):
    """Names missing data, skips broken files in training, and refuses them in testing.

    Goes before a data set class of an OpenMMLab project. A subclass says how to find faults in its kind of sample by overriding
    :meth:`sample_path`, :meth:`fault_before`, :meth:`fault_after` and :meth:`fault_of_failure`.

    In training a sample whose file is at fault is logged once per file, marked, and replaced by another one. Its own index seeds that draw:
    the same sample stands in for it in every epoch and every run, however many workers there are and wherever training was resumed. With
    ``test_mode=True`` it raises. An exception of the pipeline counts as the file's fault only if an independent look at the file finds one;
    otherwise it is raised unchanged.

    The marks are one byte per sample in shared memory: the main process sees what DataLoader workers marked, forked or spawned.

    Args:
        args: Passed on to the data set class.
        source: Where the data set comes from, for the message that its files are missing.
        kwargs: Passed on to the data set class.

    Raises:
        MissingFileError: If the annotation file or a data folder is missing (with ``lazy_init=True``: when the data is first needed).
    """

    entry_name = 'line'  # what holds a sample in the annotation file

    def __init__(self, *args: Any, source: str | None = None, **kwargs: Any) -> None:
        self.source = source
        self._marks = self._logged = torch.zeros(0, dtype=torch.uint8)
        kwargs.setdefault('max_refetch', _MAX_REFETCH)
        super().__init__(*args, **kwargs)

    # What a kind of data set overrides.

    def sample_path(self, info: dict[str, Any]) -> str:
        """Return the path that names the sample, its file or folder."""
        raise NotImplementedError

    def fault_before(self, info: dict[str, Any]) -> Fault | None:
        """Look for faults that show without decoding, before the pipeline runs; must be cheap."""
        return None

    def fault_after(self, info: dict[str, Any]) -> Fault | None:
        """Look for faults that the pipeline may have passed over; must be cheap."""
        return None

    def fault_of_failure(self, info: dict[str, Any]) -> Fault | None:
        """Look closely for a fault of the sample's file after the pipeline has raised."""
        return None

    def is_remote(self, path: str) -> bool:
        """Tell whether a path leads to another machine, so that nothing can be said of it cheaply."""
        return '://' in path

    # What BaseDataset calls.

    def full_init(self) -> None:
        """Load the annotations and make room for the marks."""
        super().full_init()
        if len(self._marks) != len(self):
            self._make_marks()

    def load_data_list(self) -> list[dict[str, Any]]:
        """Load the annotations.

        Raises:
            MissingFileError: If the annotation file or a data folder is missing.
        """
        self._require_data()
        return super().load_data_list()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy; a deep copy, such as a runner makes of a data set it is given, shares marks of its own with its workers."""
        self.__dict__.update(state)
        self._marks.share_memory_()  # changes nothing for a worker's copy, whose marks are shared already
        self._logged.share_memory_()

    def get_subset_(self, indices: int | Sequence[int]) -> None:
        """Cut the data set down to some of its samples; marks start afresh."""
        super().get_subset_(indices)
        self._make_marks()

    def get_subset(self, indices: int | Sequence[int]) -> BadSampleMixin:
        """Return a data set of some of the samples, with marks of its own."""
        subset = super().get_subset(indices)
        subset._make_marks()
        return subset

    def __getitem__(self, index: int) -> Any:
        """Return a sample; in training, another one where the file is at fault.

        Raises:
            BadSampleError: In testing, if the file is at fault; in training, if too many samples in a row were.
        """
        if self.test_mode:
            return super().__getitem__(index)
        substitutes = np.random.default_rng(index % len(self))
        for _ in range(self.max_refetch + 1):
            data = self.prepare_data(index)
            if data is not None:
                return data
            index = int(substitutes.integers(len(self)))
        bad = self.skipped_samples()
        raise BadSampleError(
            f'{self.ann_file}: no usable sample in {self.max_refetch + 1} draws; {len(bad)} of {len(self)} samples are known to be broken'
            + (f', for example {bad[0][0]} ({bad[0][1].text})' if bad else ', the others were rejected by the pipeline')
            + '. Check that the data is unpacked completely and that data_prefix points to it.'
        )

    def prepare_data(self, index: int) -> Any:
        """Run the pipeline on a sample.

        Returns:
            What the pipeline returns, or None in training if the file is at fault.

        Raises:
            BadSampleError: In testing, if the file is at fault.
        """
        info = self.get_data_info(index)
        index = info['sample_idx']
        fault = self.fault_before(info)
        if fault is not None:
            return self._reject(index, fault)
        try:
            data = self.pipeline(info)
        except Exception as error:
            fault = self.fault_of_failure(info)
            if fault is None:
                raise
            # The traceback's frames and info may hold a video reader of decord. If it were still around when a DataLoader forks its
            # workers, and a worker collected it as garbage, its destructor would wait for ever for a thread that only the parent has.
            traceback.clear_frames(error.__traceback__)
            info.clear()
            return self._reject(index, fault, error)
        fault = None if data is None else self.fault_after(info)
        return data if fault is None else self._reject(index, fault)

    # What SkippedSampleHook calls.

    def skipped_samples(self) -> list[tuple[str, Reason]]:
        """List the samples that were skipped since the last :meth:`clear_skipped`, by this process and its DataLoader workers.

        Returns:
            Pairs of path and reason, in the order of the annotation file.
        """
        indices = self._marks.nonzero().flatten().tolist()
        return [(self.sample_path(self.get_data_info(i)), Reason(int(self._marks[i]))) for i in indices]

    def clear_skipped(self) -> None:
        """Forget which samples were skipped. Files that have been logged are not logged again."""
        self._marks.zero_()

    def _make_marks(self) -> None:
        self._marks = torch.zeros(len(self), dtype=torch.uint8).share_memory_()
        self._logged = torch.zeros(len(self), dtype=torch.uint8).share_memory_()

    def _reject(self, index: int, fault: Fault, cause: Exception | None = None) -> None:
        if self.test_mode:
            raise BadSampleError(
                f'{fault}. A test set must be complete, so nothing is skipped here: {fault.remedy}, or take its {self.entry_name} out of '
                f'{self.ann_file}.'
            ) from cause
        self._marks[index] = int(fault.reason)
        if not self._logged[index]:
            self._logged[index] = 1
            print_log(f'Skipped in training: {fault}', logger='current', level=logging.WARNING)

    def _require_data(self) -> None:
        places = [('file', self.ann_file)] + [('folder', prefix) for prefix in self.data_prefix.values() if prefix]
        places = [(kind, path) for kind, path in places if not self.is_remote(path)]
        missing = [(kind, path) for kind, path in places if not (osp.isfile if kind == 'file' else osp.isdir)(path)]
        if not missing:
            return
        names = ' and '.join(f'{kind} {path}' for kind, path in reversed(missing))
        raise MissingFileError(
            f'Data not found: {names} {"is" if len(missing) == 1 else "are"} missing; the data set comes from '
            f'{self.source or "a source that its config does not name"}; `make demo` needs no download.\n'
            f'Relative paths count from {os.getcwd()}. Put the data there, or set data_root, data_prefix and ann_file in the config.'
        )
