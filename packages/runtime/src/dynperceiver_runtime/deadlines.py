"""Deadlines: which segment may still begin, so that few answers are late and yet no depth is given away for long.

Before a segment that samples would go on to, its time is estimated (:mod:`.segment_times`); it begins if it would end in time. Two things
keep a slow moment from being believed for ever, or from being paid for again and again:

- Late answers are rationed: one in :data:`CALLS_PER_LATE_ANSWER` calls. While one is allowed, an estimate is the median of what was seen
  of late; after late answers have used up the ration, it is the slowest of that, until enough calls have gone by.
- Estimates age: a segment that was left out for some calls because its estimate is too long is tried all the same, if a late answer is
  allowed. Trials that fail become rarer, and more so where the segment has never been seen to be fast enough.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from .segment_times import ImageSize, SegmentTimes

__all__ = ['CALLS_PER_LATE_ANSWER', 'Deadlines', 'TimedCall']

CALLS_PER_LATE_ANSWER = 33
"""Calls for each of which one answer may be late because a segment was begun and took longer than was expected: 3 % in the long run, and 5
in any 100 calls. What is late because of segment 1, which always runs, or because a segment ran for the first time, does not count."""

MOST_SAVED = 2 * CALLS_PER_LATE_ANSWER  # two late answers in a row, after a time without
MOST_OWED = 15  # so that a late answer is allowed again within 48 calls, whatever happened before
FIRST_WAIT, LONGEST_WAIT = 10, 160  # calls for which a segment is left out before it is tried
LONGEST_LIKELY_WAIT = 40  # where it has been fast enough before
UNLIKELY_WAITS = 4  # times so long where it has never been


class _Segment:
    """What is known of a segment, and when it last ran."""

    def __init__(self) -> None:
        self.times = SegmentTimes()
        self.last_call = 0
        self.wait = FIRST_WAIT


class Deadlines:
    """What a runner has learned of its segments' times, and how many answers may be late.

    Several threads may use it.

    Args:
        num_segments: Segments of the network.
    """

    def __init__(self, num_segments: int) -> None:
        self._segments = [_Segment() for _ in range(num_segments)]
        self._num_calls = 0  # with a deadline
        self._saved = CALLS_PER_LATE_ANSWER
        self._lock = threading.Lock()

    def call(self, clock: Callable[[], float], started: float, deadline_ms: float | None, image_size: ImageSize) -> TimedCall:
        """Begin a call.

        Args:
            clock: Seconds.
            started: When the call began.
            deadline_ms: Milliseconds from then; ``None`` for no deadline.
            image_size: Height and width of the images in pixels.
        """
        if deadline_ms is not None:
            with self._lock:
                self._num_calls += 1
        return TimedCall(self, clock, started, deadline_ms, image_size)

    def _may_begin(self, index: int, image_size: ImageSize, count: int, left_ms: float) -> tuple[bool, bool, bool]:
        """Whether a segment may begin, whether as a trial, and whether it ever ran."""
        if left_ms <= 0:
            return False, False, False
        with self._lock:
            segment, like = self._segments[index], self._segments[index - 1].times
            times, may_be_late = segment.times, self._saved >= CALLS_PER_LATE_ANSWER
            begins, is_trial, is_known = True, False, times.num_runs > 0
            if times.expect(image_size, count, like, careful=not may_be_late) > left_ms:
                likely = times.num_runs == 1 or times.best(image_size, count, like)[0] <= left_ms
                wait = min(segment.wait, LONGEST_LIKELY_WAIT) if likely else UNLIKELY_WAITS * segment.wait
                allowed = may_be_late if likely else self._saved == MOST_SAVED  # which leaves one for segments that mostly fit
                begins = is_trial = allowed and self._num_calls - segment.last_call > wait
            if begins:
                segment.last_call = self._num_calls  # other threads need not try it, too
            return begins, is_trial, is_known

    def _ran(self, index: int, image_size: ImageSize, count: int, milliseconds: float, trial_in_time: bool | None) -> None:
        with self._lock:
            segment = self._segments[index]
            segment.last_call = self._num_calls
            if trial_in_time is not None:
                segment.wait = FIRST_WAIT if trial_in_time else min(2 * segment.wait, LONGEST_WAIT)
                if trial_in_time:
                    segment.times.forget_slowness()
            if segment.times.add(image_size, count, milliseconds) and index == 0:  # so may the others be, which were left out
                for other in self._segments:
                    other.wait = FIRST_WAIT

    def _ended(self, is_late: bool) -> None:
        with self._lock:
            if is_late:
                self._saved = max(self._saved - CALLS_PER_LATE_ANSWER, -MOST_OWED)
            else:
                self._saved = min(self._saved + 1, MOST_SAVED)


class TimedCall:
    """The way of one call through the segments; made by :meth:`Deadlines.call`."""

    def __init__(
        self, deadlines: Deadlines, clock: Callable[[], float], started: float, deadline_ms: float | None, image_size: ImageSize
    ) -> None:
        self._deadlines, self._clock, self._deadline_ms, self._image_size = deadlines, clock, deadline_ms, image_size
        self._started = self._step_began = started
        self._is_trial = False
        self._counts = False  # whether a late answer does: it is late because of the segment that was begun last

    def ran(self, index: int, count: int) -> None:
        """A segment has run, and it is decided who leaves.

        Args:
            index: Its index, from 0.
            count: Images that ran.
        """
        now = self._clock()
        in_time = None if not self._is_trial or self._deadline_ms is None else (now - self._started) * 1e3 <= self._deadline_ms
        self._deadlines._ran(index, self._image_size, count, (now - self._step_began) * 1e3, in_time)
        self._step_began = now

    def may_begin(self, index: int, count: int) -> bool:
        """Whether a segment may begin; without a deadline always.

        Args:
            index: Its index, from 1.
            count: Images that would run.
        """
        if self._deadline_ms is None:
            return True
        left_ms = self._deadline_ms - (self._clock() - self._started) * 1e3
        begins, self._is_trial, is_known = self._deadlines._may_begin(index, self._image_size, count, left_ms)
        if begins:
            self._counts = is_known
        return begins

    def ended(self) -> None:
        """The answers are there."""
        if self._deadline_ms is not None:
            is_late = (self._clock() - self._started) * 1e3 > self._deadline_ms
            self._deadlines._ended(is_late and self._counts)
