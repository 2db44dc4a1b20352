"""What is expected of a segment's time."""

from __future__ import annotations

import sys
import threading

import pytest

from dynperceiver_runtime.segment_times import SegmentTimes


def test_nothing_is_known() -> None:
    assert SegmentTimes(2).expect(1, 8) == 0.0


def test_the_first_time_does_not_count_for_long() -> None:
    times = SegmentTimes(1, weight=0.5)
    times.add(0, 4, 100.0)
    assert times.expect(0, 4) == 100.0
    times.add(0, 4, 10.0)
    assert times.expect(0, 4) == 10.0
    times.add(0, 4, 20.0)
    assert times.expect(0, 4) == 15.0


@pytest.mark.parametrize(('batch_size', 'expected'), [(1, 8.0), (4, 8.0), (5, 20.0), (8, 20.0), (16, 40.0)])
def test_between_and_beyond_known_batch_sizes(batch_size: int, expected: float) -> None:
    times = SegmentTimes(2)
    times.add(1, 4, 8.0)
    times.add(1, 8, 20.0)
    assert times.expect(1, batch_size) == expected
    assert times.expect(0, batch_size) == 0.0


def test_threads_may_add_while_others_ask() -> None:
    times = SegmentTimes(1)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=lambda: [times.add(0, size, 1.0) for size in range(1, 3000)])
    thread.start()
    try:
        while thread.is_alive():
            times.expect(0, 10**9)
    finally:
        thread.join()
        sys.setswitchinterval(interval)
