"""How long a segment takes, learned while it runs: by image size, by the number of images, and as the machine is now.

What a segment takes is its best time for this image size and number of images, times how much slower it was of late. The first is a
curve that is remembered for long; the second is one number, which all sizes share, so that a machine that slows down is noticed at any
of them.
"""

from __future__ import annotations

from bisect import bisect
from collections import deque
from typing import Any, TypeAlias

import numpy as np

__all__ = ['ImageSize', 'SegmentTimes', 'image_size']

ImageSize: TypeAlias = 'tuple[int, ...]'  # height and width in pixels

NUM_RECENT = 9  # runs that say how slow the machine is; of so many, four may be hiccups and the median does not move
CONTRADICTION = 1.5  # a time so many times longer than those of other counts allow was taken in a slow moment
MUCH_FASTER = 0.9  # of the best time until then
MAX_IMAGE_SIZES, MAX_COUNTS = 16, 32  # remembered; whatever ran longest ago is forgotten first
SHORTEST_MS = 1e-6  # so that ratios of times exist


def image_size(images: Any) -> ImageSize:
    """Height and width of a batch of images, clips or frames."""
    return tuple(np.shape(images)[-2:])


class SegmentTimes:
    """Times of one segment."""

    def __init__(self) -> None:
        self.num_runs = 0
        self._best_ms: dict[ImageSize, dict[int, float]] = {}
        self._slowness: deque[float] = deque(maxlen=NUM_RECENT)

    def add(self, image_size: ImageSize, count: int, milliseconds: float) -> bool:
        """Take in a measurement.

        Args:
            image_size: Height and width in pixels.
            count: Images, frames' clips or views that ran together.
            milliseconds: What they took.

        Returns:
            Whether that is much faster than ever before.
        """
        best_ms = self._best_ms.pop(image_size, {})
        self._best_ms[image_size] = best_ms  # last, as what ran last
        milliseconds = max(milliseconds, SHORTEST_MS)
        before_ms = best_ms.pop(count, milliseconds)
        best_ms[count] = min(milliseconds, before_ms)
        if len(best_ms) > MAX_COUNTS:
            del best_ms[next(iter(best_ms))]
        if len(self._best_ms) > MAX_IMAGE_SIZES:
            del self._best_ms[next(iter(self._best_ms))]
        self._slowness.append(milliseconds / self.best(image_size, count)[0])
        self.num_runs += 1
        return milliseconds < MUCH_FASTER * before_ms

    def forget_slowness(self) -> None:
        """Let the next measurement alone say how slow the machine is."""
        self._slowness.clear()

    def best(self, image_size: ImageSize, count: int, like: SegmentTimes | None = None) -> tuple[float, float]:
        """Milliseconds on an undisturbed machine.

        Where this image size or count never ran, they follow from those that did, as they do for another segment.

        Args:
            image_size: Height and width in pixels.
            count: Images that run together.
            like: Segment that ran before this one, on as many images or more.

        Returns:
            The best guess, and what it can hardly exceed; both the same where they were measured. Both 0 if the segment never ran.
        """
        if not self._best_ms:
            return 0.0, 0.0
        if image_size in self._best_ms:
            return _between(self._best_ms[image_size], count, None if like is None else like._best_ms.get(image_size))
        other = next(reversed(self._best_ms))
        guess_ms, upper_ms = self.best(other, count, like)
        if like is not None and {image_size, other} <= like._best_ms.keys():
            ratio = like.best(image_size, count)[0] / like.best(other, count)[0]
        else:
            ratio = image_size[0] * image_size[1] / (other[0] * other[1])
        return guess_ms * ratio, 2 * upper_ms * ratio

    def expect(self, image_size: ImageSize, count: int, like: SegmentTimes | None = None, *, careful: bool = False) -> float:
        """Milliseconds to expect: the best time, times the median of how much slower recent runs were.

        Args:
            image_size: See :meth:`best`.
            count: See there.
            like: See there.
            careful: Whether to count with the slowest of the recent runs in place of the median, and with the upper limit of a guess.
        """
        guess_ms, upper_ms = self.best(image_size, count, like)
        if not self._slowness:
            return guess_ms
        slowness = sorted(self._slowness)
        return upper_ms * slowness[-1] if careful else guess_ms * slowness[len(slowness) // 2]


def _between(best_ms: dict[int, float], count: int, like_ms: dict[int, float] | None) -> tuple[float, float]:
    """Time of a count of images, by those of others, and its upper limit.

    More images take no less time, and at most in proportion more; a time that is far from that was taken in a slow moment. Between two
    counts that ran, times lie on a line; beyond, they follow those of the segment ``like_ms``, or the line, or are in proportion.
    """
    upper_ms = min(ms * max(1.0, count / known) for known, ms in best_ms.items())
    if count in best_ms:
        own_ms = min(best_ms[count], upper_ms * CONTRADICTION)
        return own_ms, own_ms
    lower_ms = max(ms * min(1.0, count / known) for known, ms in best_ms.items())
    counts = sorted(best_ms)
    place = bisect(counts, count)
    nearest = counts[max(place - 1, 0)]
    if like_ms and place in (0, len(counts)):
        guess_ms = best_ms[nearest] * _between(like_ms, count, None)[0] / _between(like_ms, nearest, None)[0]
    elif len(counts) > 1:
        first, second = counts[max(place - 2, 0) :][:2] if place == len(counts) else counts[max(place - 1, 0) :][:2]
        guess_ms = best_ms[first] + (best_ms[second] - best_ms[first]) * (count - first) / (second - first)
    else:
        guess_ms = best_ms[nearest] * count / nearest
    return min(max(guess_ms, lower_ms), upper_ms), upper_ms
