"""Time of calls, compared within one run.

Times on a machine that does other work, too, wander by more than what is compared; so the calls take turns, and a ratio of two is taken
round by round, where both met the same moments.

Shape suffixes: R rounds.
"""

from __future__ import annotations

import gc
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from dynperceiver_runtime import UserError

__all__ = [
    'Crossover',
    'Timing',
    'TimingTable',
    'find_crossover',
    'machine_description',
    'num_torch_threads',
    'time_calls',
]

CPU_INFO = Path('/proc/cpuinfo')
MIN_ROUNDS = 3


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a call.

    Attributes:
        name: Name of the call.
        median_ms: Median over the rounds.
        p10_ms: 10th percentile.
        p90_ms: 90th percentile.
        num_rounds: Rounds.
        calls_per_round: Calls in a row that a round takes the mean of.
    """

    name: str
    median_ms: float
    p10_ms: float
    p90_ms: float
    num_rounds: int
    calls_per_round: int


@dataclass(frozen=True, eq=False)
class TimingTable:
    """Times of calls that took turns.

    Attributes:
        rounds_ms: Name to milliseconds per call in each round, shape (R,); all have the same rounds.
        calls_per_round: Name to the calls that a round takes the mean of.
    """

    rounds_ms: Mapping[str, np.ndarray]
    calls_per_round: Mapping[str, int]

    def _rounds(self, name: str) -> np.ndarray:
        if name not in self.rounds_ms:
            raise ValueError(f'{name!r} was not timed; choose among {", ".join(map(repr, self.rounds_ms))}')
        return self.rounds_ms[name]

    def __getitem__(self, name: str) -> Timing:
        """Times of one call.

        Raises:
            ValueError: If there is none of that name.
        """
        rounds_R = self._rounds(name)
        low, middle, high = (float(value) for value in np.percentile(rounds_R, (10, 50, 90)))
        return Timing(name, middle, low, high, len(rounds_R), self.calls_per_round[name])

    def ratio(self, name: str, other: str) -> float:
        """How many times as long as another a call takes: the median of the ratios within each round.

        Raises:
            ValueError: If there is no call of such a name.
        """
        return float(np.median(self._rounds(name) / self._rounds(other)))

    def rows(self) -> list[Timing]:
        """Times of all calls, in the order in which they take turns."""
        return [self[name] for name in self.rounds_ms]

    def text(self, relative_to: str | None = None) -> str:
        """A table for people.

        Args:
            relative_to: Name of a call that the others are compared with.

        Raises:
            ValueError: If there is none of that name.
        """
        width = max(len(name) for name in self.rounds_ms)
        ratio_head = '' if relative_to is None else f'  {"ratio":>7}'
        lines = [f'{"":<{width}}  {"ms":>9}  {"10 %":>9}  {"90 %":>9}{ratio_head}']
        for row in self.rows():
            ratio = '' if relative_to is None else f'  {self.ratio(row.name, relative_to):>7.3f}'
            lines.append(f'{row.name:<{width}}  {row.median_ms:>9.3f}  {row.p10_ms:>9.3f}  {row.p90_ms:>9.3f}{ratio}')
        return '\n'.join(lines)


def time_calls(
    calls: Mapping[str, Callable[[], object]],
    rounds: int = 15,
    round_ms: float = 20.0,
    warm_up: int = 2,
    max_seconds: float | None = None,
    progress: Callable[[int, int], object] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> TimingTable:
    """Time calls that take turns: in each round each is called, in an order that rotates, as often as fills the round.

    Args:
        calls: Name to what is called without arguments.
        rounds: Rounds.
        round_ms: Milliseconds that a call's part of a round lasts at least; shorter calls are repeated within it.
        warm_up: Calls of each beforehand, which do not count.
        max_seconds: Stop after so many seconds, but not before three rounds.
        progress: Called after each round with the number of rounds done and of all.
        clock: Seconds.

    Raises:
        ValueError: If there is no call, or a number is not positive.
    """
    if not calls:
        raise ValueError('there are no calls to time; pass one or more, by name')
    for name, value in {'rounds': rounds, 'round_ms': round_ms, 'warm_up': warm_up}.items():
        if not value > 0:
            raise UserError(f'{name}={value}: pass a number above 0')
    if max_seconds is not None and not max_seconds > 0:
        raise UserError(f'max_seconds={max_seconds}: pass a number above 0, or None for no limit')

    def run(call: Callable[[], object], times: int) -> float:
        begin = clock()
        for _ in range(times):
            call()
        return (clock() - begin) * 1e3 / times

    repeats: dict[str, int] = {}
    for name, call in calls.items():
        single_ms = min(run(call, 1) for _ in range(warm_up))
        repeats[name] = max(1, int(np.ceil(round_ms / max(single_ms, 1e-6) - 1e-9)))
    kept: dict[str, list[float]] = {name: [] for name in calls}
    names, begin = list(calls), clock()
    collecting = gc.isenabled()
    gc.disable()
    try:
        for number in range(rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                kept[name].append(run(calls[name], repeats[name]))
            gc.collect(1)  # what this round left; old objects stay
            if progress is not None:
                progress(number + 1, rounds)
            if max_seconds is not None and number + 1 >= MIN_ROUNDS and clock() - begin > max_seconds:
                break
    finally:
        if collecting:
            gc.enable()
    return TimingTable({name: np.array(values) for name, values in kept.items()}, repeats)


@contextmanager
def num_torch_threads(num_threads: int | None) -> Iterator[int]:
    """Set PyTorch's number of threads and put it back.

    Args:
        num_threads: Threads; ``None`` leaves it as it is.

    Yields:
        The number that holds.

    Raises:
        ValueError: If it is not positive.
    """
    import torch

    if num_threads is not None and num_threads < 1:
        raise UserError(f'num_threads={num_threads}: pass 1 or more, at most the cores of the machine')
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def _cpu_model() -> str:
    if CPU_INFO.is_file():
        match = re.search(r'^model name\s*:\s*(.+)$', CPU_INFO.read_text(encoding='utf-8', errors='replace'), re.MULTILINE)
        if match:
            return ' '.join(match[1].split())
    return platform.processor() or platform.machine() or 'unknown processor'


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def machine_description(num_threads: int | None = None, device: str | None = None) -> str:
    """What times depend on: processor, cores that this process may use, threads, and versions; no name of the machine.

    Args:
        num_threads: Threads that compute; default PyTorch's, where it is loaded.
        device: Name of an accelerator that computes.
    """
    torch = sys.modules.get('torch')
    if num_threads is None and torch is not None:
        num_threads = torch.get_num_threads()
    parts = [_cpu_model(), f'{_cores()} cores']
    parts += [] if num_threads is None else [f'{num_threads} thread{"s" if num_threads > 1 else ""}']
    parts += [] if device is None else [device]
    parts += [f'{platform.system()} {platform.machine()}', f'Python {platform.python_version()}']
    for package in ('torch', 'onnxruntime'):
        try:
            parts.append(f'{package} {metadata.version(package)}')
        except metadata.PackageNotFoundError:
            continue
    return ', '.join(parts)


@dataclass(frozen=True)
class Crossover:
    """For which batch sizes one way of inference is faster than another.

    Attributes:
        batch_sizes: Those that were measured, rising.
        ratios: Time over the other's time, for each.
    """

    batch_sizes: tuple[int, ...]
    ratios: tuple[float, ...]

    @property
    def batch_size(self) -> int | None:
        """Smallest measured batch size from which on it is faster at all larger ones, too; ``None`` where there is none."""
        found = None
        for size, ratio in zip(reversed(self.batch_sizes), reversed(self.ratios), strict=True):
            if ratio >= 1:
                break
            found = size
        return found

    def text(self, other: str) -> str:
        """A phrase for people: faster than what, from where on."""
        faster = [str(size) for size, ratio in zip(self.batch_sizes, self.ratios, strict=True) if ratio < 1]
        if not faster:
            size, ratio = min(zip(self.batch_sizes, self.ratios, strict=True), key=lambda pair: pair[1])
            return f'faster than {other} at no measured batch size (nearest at {size}: {ratio:.2f} times its time)'
        if self.batch_size is None:
            return f'faster than {other} at batch size {", ".join(faster)} only, and not from any size on'
        start, ratio = self.batch_size, self.ratios[self.batch_sizes.index(self.batch_size)]
        where = 'the smallest measured' if start == self.batch_sizes[0] else f'not at {self.batch_sizes[self.batch_sizes.index(start) - 1]}'
        return f'faster than {other} from batch size {start} on ({where}; {ratio:.2f} times its time there)'


def find_crossover(times_ms: Mapping[int, float], other_ms: Mapping[int, float]) -> Crossover:
    """Compare times by batch size.

    Args:
        times_ms: Batch size to milliseconds, of a batch or of a sample.
        other_ms: The same of what it is compared with.

    Raises:
        ValueError: If they have not the same batch sizes, or there are none.
    """
    if not times_ms or set(times_ms) != set(other_ms):
        raise ValueError(
            f'times at the batch sizes {sorted(times_ms)} and {sorted(other_ms)} cannot be compared; measure both at the same ones'
        )
    sizes = tuple(sorted(times_ms))
    return Crossover(sizes, tuple(times_ms[size] / other_ms[size] for size in sizes))
