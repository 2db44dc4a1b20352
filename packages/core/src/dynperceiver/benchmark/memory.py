"""Peak memory of calls, each measured in a process of its own."""

from __future__ import annotations

import gc
import multiprocessing
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynperceiver_runtime import FileError, UserError

__all__ = ['PeakMemory', 'measure_peak_memory']

MIB = 1024  # of the KiB that Linux counts in



@dataclass(frozen=True)
class PeakMemory:
    """Memory of a process while it called something.

    Attributes:
        before_mib: Resident MiB before, what the call works on included.
        peak_mib: Most resident MiB during the calls.
    """

    before_mib: float
    peak_mib: float

    @property
    def added_mib(self) -> float:
        """What the calls needed beyond what was there before."""
        return self.peak_mib - self.before_mib


def _resident_kib(field: str) -> int:
    match = re.search(rf'^{field}:\s+(\d+) kB$', Path('/proc/self/status').read_text(encoding='utf-8'), re.MULTILINE)
    assert match is not None
    return int(match[1])


def _peak_in_this_process(make: Callable[..., Callable[[], object]], args: Sequence[Any], num_calls: int) -> PeakMemory:
    call = make(*args)
    gc.collect()
    Path('/proc/self/clear_refs').write_text('5', encoding='utf-8')  # the highest mark becomes what is resident now
    before = _resident_kib('VmRSS')
    for _ in range(num_calls):
        call()
    return PeakMemory(before / MIB, max(_resident_kib('VmHWM'), before) / MIB)


def measure_peak_memory(make: Callable[..., Callable[[], object]], *args: Any, num_calls: int = 2) -> PeakMemory:
    """Peak of the resident memory while something is called, in a fresh process (Linux).

    The kernel's highest mark is set back after the preparations, so that neither these nor the process that asks are in it.

    Args:
        make: Function of a module that prepares, in the fresh process, and returns what is called. Whatever runs once should have run
            when it returns.
        args: Its arguments, which are pickled.
        num_calls: Calls; memory that the first one leaves behind counts for the next.

    Raises:
        UserError: If there are no calls.
        FileError: If this system does not count so.
    """
    if num_calls < 1:
        raise UserError(f'num_calls={num_calls}: pass 1 or more')
    if not os.access('/proc/self/clear_refs', os.W_OK):
        raise FileError('peak memory is read from /proc/self/clear_refs, which this system has not; measure on Linux')
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('spawn')) as executor:
        return executor.submit(_peak_in_this_process, make, args, num_calls).result()
