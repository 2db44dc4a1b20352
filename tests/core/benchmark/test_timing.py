"""Times, their ratios, crossovers, and peak memory."""

from __future__ import annotations

import functools
import gc
import platform
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peak_calls import make_call

from dynperceiver.benchmark import (
    Crossover,
    TimingTable,
    find_crossover,
    machine_description,
    measure_peak_memory,
    memory,
    num_torch_threads,
    time_calls,
    timing,
)


class FakeMachine:
    """A clock that calls move on, slower in some rounds, and what was called."""

    def __init__(self) -> None:
        self.now = 0.0
        self.speed = 1.0
        self.called: list[str] = []

    def clock(self) -> float:
        return self.now

    def call(self, name: str, ms: float) -> Callable[[], None]:
        def run() -> None:
            self.called.append(name)
            self.now += self.speed * ms / 1e3

        return run


def test_calls_take_turns_in_rotating_order_after_warming_up() -> None:
    machine = FakeMachine()
    calls = {name: machine.call(name, 30) for name in 'abc'}
    table = time_calls(calls, rounds=4, round_ms=20, warm_up=2, clock=machine.clock)
    assert ''.join(machine.called) == 'aabbcc' + 'abc' + 'bca' + 'cab' + 'abc'
    assert [row.num_rounds for row in table.rows()] == [4, 4, 4]
    assert table['b'].median_ms == pytest.approx(30)


def test_short_calls_are_repeated_to_fill_the_round() -> None:
    machine = FakeMachine()
    table = time_calls(
        {'short': machine.call('s', 1.5), 'long': machine.call('l', 50)}, rounds=3, round_ms=20, warm_up=1, clock=machine.clock
    )
    assert table['short'].calls_per_round == 14 and table['long'].calls_per_round == 1
    assert machine.called.count('s') == 1 + 3 * 14 and machine.called.count('l') == 1 + 3
    assert table['short'].median_ms == pytest.approx(1.5)


def test_time_is_that_of_a_call_and_percentiles_are_those_of_rounds() -> None:
    table = TimingTable({'a': np.arange(11.0)}, {'a': 3})
    row = table['a']
    assert (row.p10_ms, row.median_ms, row.p90_ms) == (1.0, 5.0, 9.0)
    assert (row.name, row.num_rounds, row.calls_per_round) == ('a', 11, 3)


def test_ratio_is_taken_within_rounds() -> None:
    """A machine that is ten times as slow in two of five rounds."""
    slow = np.array([1, 10, 1, 10, 1.0])
    table = TimingTable({'a': 3 * slow, 'b': 2 * slow[[0, 1, 2, 3, 4]]}, {'a': 1, 'b': 1})
    assert table.ratio('a', 'b') == pytest.approx(1.5)
    shifted = TimingTable({'a': np.array([2.0, 4, 40]), 'b': np.array([1.0, 4, 4])}, {'a': 1, 'b': 1})
    assert shifted.ratio('a', 'b') == 2.0  # of the ratios 2, 1 and 10; the ratio of the medians is 1


def test_time_limit_stops_but_not_before_three_rounds() -> None:
    machine, seen = FakeMachine(), []
    calls = {'a': machine.call('a', 1000)}
    table = time_calls(calls, 50, warm_up=1, max_seconds=0.5, progress=lambda *done: seen.append(done), clock=machine.clock)
    assert table['a'].num_rounds == 3 and seen == [(1, 50), (2, 50), (3, 50)]
    assert time_calls(calls, 50, warm_up=1, max_seconds=6.5, clock=machine.clock)['a'].num_rounds == 7


def test_garbage_collection_waits_and_comes_back() -> None:
    enabled = []
    time_calls({'a': lambda: enabled.append(gc.isenabled())}, 2, round_ms=1e-6, warm_up=1)
    assert enabled[0] and not any(enabled[1:]) and gc.isenabled()
    counter = iter(range(9))
    with pytest.raises(ZeroDivisionError):
        time_calls({'a': lambda: 1 / (next(counter) - 3)}, 9, round_ms=1e-6, warm_up=1)
    assert gc.isenabled()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(calls={}), 'there are no calls to time; pass one or more'),
        (dict(rounds=0), 'rounds=0: pass a number above 0'),
        (dict(round_ms=-1), 'round_ms=-1: pass a number above 0'),
        (dict(warm_up=0), 'warm_up=0: pass a number above 0'),
        (dict(max_seconds=0), 'max_seconds=0: pass a number above 0, or None'),
    ],
)
def test_wrong_numbers_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        time_calls(**{'calls': {'a': lambda: None}, **changes})


def test_table_for_people() -> None:
    table = TimingTable({'four segments': np.full(5, 12.5), 'trunk': np.full(5, 10.0)}, {'four segments': 1, 'trunk': 1})
    head, first, second = table.text('trunk').splitlines()
    assert head.split() == ['ms', '10', '%', '90', '%', 'ratio']
    assert first.split() == ['four', 'segments', '12.500', '12.500', '12.500', '1.250'] and second.endswith('1.000')
    assert 'ratio' not in table.text()
    with pytest.raises(ValueError, match=r"'tronk' was not timed; choose among 'four segments', 'trunk'"):
        table.text('tronk')
    with pytest.raises(ValueError, match=r"'a' was not timed"):
        table['a']


def test_threads_are_set_and_put_back() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), num_torch_threads(before + 1) as threads:
        assert threads == torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before
    with num_torch_threads(None) as threads:
        assert threads == before
    with pytest.raises(ValueError, match='num_threads=0: pass 1 or more'), num_torch_threads(0):
        pass


def test_machine_is_described_without_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'cpuinfo').write_text('processor\t: 0\nmodel name\t: Fast  CPU @ 3 GHz\nprocessor\t: 1\nmodel name\t: Other\n')
    monkeypatch.setattr(timing, 'CPU_INFO', tmp_path / 'cpuinfo')
    monkeypatch.setattr(platform, 'node', lambda: 'secret-host')
    text = machine_description(2, 'H200')
    assert text.startswith('Fast CPU @ 3 GHz, ') and ' cores, 2 threads, H200, ' in text
    assert f'torch {torch.__version__}' in text and f'Python {platform.python_version()}' in text
    assert 'secret-host' not in text and 'Other' not in text
    assert ', 1 thread, ' in machine_description(1)
    assert f', {torch.get_num_threads()} thread' in machine_description()
    monkeypatch.setattr(timing, 'CPU_INFO', tmp_path / 'none')
    monkeypatch.setattr(platform, 'processor', lambda: 'arm')
    assert machine_description().startswith('arm, ')


@pytest.mark.parametrize(
    ('ratios', 'start', 'message'),
    [
        ((1.2, 1.0, 0.9, 0.8), 8, r'faster than X from batch size 8 on \(not at 4; 0\.90 times its time there\)'),
        ((0.9, 0.8, 0.7, 0.7), 1, r'faster than X from batch size 1 on \(the smallest measured; 0\.90 times'),
        ((1.4, 1.3, 1.1, 1.2), None, r'faster than X at no measured batch size \(nearest at 8: 1\.10 times its time\)'),
        ((0.9, 1.1, 0.9, 1.2), None, r'faster than X at batch size 1, 8 only, and not from any size on'),
        ((0.9, 1.1, 0.9, 0.9), 8, r'from batch size 8 on'),
    ],
)
def test_crossover(ratios: tuple[float, ...], start: int | None, message: str) -> None:
    sizes = (1, 4, 8, 16)
    found = find_crossover(dict(zip(reversed(sizes), (10 * ratio for ratio in reversed(ratios)), strict=True)), dict.fromkeys(sizes, 10.0))
    assert found.batch_sizes == sizes and found.ratios == pytest.approx(ratios)
    assert found.batch_size == start
    assert isinstance(found, Crossover)
    assert re.search(message, found.text('X'))


def test_times_at_other_batch_sizes_are_not_compared() -> None:
    with pytest.raises(ValueError, match=r'the batch sizes \[1, 8\] and \[1\] cannot be compared; measure both at the same ones'):
        find_crossover({8: 1.0, 1: 1.0}, {1: 1.0})
    with pytest.raises(ValueError, match='cannot be compared'):
        find_crossover({}, {})


@pytest.mark.skipif(platform.system() != 'Linux', reason='reads Linux counters')
def test_peak_memory_is_that_of_the_calls_alone() -> None:
    """Neither what this process holds counts, nor what the preparations needed."""
    ballast = b'x' * (700 << 20)
    peak = measure_peak_memory(make_call, 128 << 20, 64 << 20)
    assert 63 < peak.added_mib < 70
    assert peak.before_mib < 600 < len(ballast) >> 20
    assert peak.peak_mib == pytest.approx(peak.before_mib + peak.added_mib)


def test_peak_memory_needs_calls_and_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match='num_calls=0: pass 1 or more'):
        measure_peak_memory(functools.partial, len, b'', num_calls=0)
    monkeypatch.setattr(memory.os, 'access', lambda *_: False)
    with pytest.raises(OSError, match=r'/proc/self/clear_refs, which this system has not; measure on Linux'):
        measure_peak_memory(functools.partial, len, b'')
