"""How long segments take, learned while they run."""

from __future__ import annotations

__all__ = ['SegmentTimes']


class SegmentTimes:
    """Running mean of each segment's milliseconds, by batch size.

    Args:
        num_segments: Segments of the network.
        weight: Weight of a new measurement in the mean; the first of its batch size stands alone, and the second replaces it, because
            whatever runs for the first time is slower.
    """

    def __init__(self, num_segments: int, weight: float = 0.25) -> None:
        self.weight = weight
        self._mean_ms: list[dict[int, float]] = [{} for _ in range(num_segments)]
        self._count: list[dict[int, int]] = [{} for _ in range(num_segments)]

    def add(self, segment: int, batch_size: int, milliseconds: float) -> None:
        """Take in a measurement."""
        means, counts = self._mean_ms[segment], self._count[segment]
        count = counts.get(batch_size, 0)
        weight = self.weight if count > 1 else 1.0
        means[batch_size] = (1 - weight) * means.get(batch_size, 0.0) + weight * milliseconds
        counts[batch_size] = count + 1

    def expect(self, segment: int, batch_size: int) -> float:
        """Milliseconds that a segment will take.

        Between batch sizes that ran before, the larger one's time is expected; beyond the largest, its time in proportion to the size.
        0 where the segment never ran.
        """
        means = self._mean_ms[segment].copy()  # other threads add to it
        if not means:
            return 0.0
        larger = min((size for size in means if size >= batch_size), default=None)
        if larger is not None:
            return means[larger]
        largest = max(means)
        return means[largest] * batch_size / largest
