"""What is expected of a segment's time: from other numbers of images, other image sizes, and of late."""

from __future__ import annotations

import numpy as np
import pytest

from dynperceiver_runtime.segment_times import MAX_COUNTS, MAX_IMAGE_SIZES, NUM_RECENT, SegmentTimes, image_size

SIZE = (8, 8)


def times_of(milliseconds: dict[int, float], size: tuple[int, int] = SIZE) -> SegmentTimes:
    times = SegmentTimes()
    for count, value in milliseconds.items():
        times.add(size, count, value)
    return times


def test_nothing_is_known() -> None:
    times = SegmentTimes()
    assert times.num_runs == 0 and times.expect(SIZE, 8) == 0.0


def test_the_first_time_does_not_count_for_long() -> None:
    """Whatever runs for the first time is slower."""
    times = times_of({4: 100.0})
    assert times.expect(SIZE, 4) == 100.0
    times.add(SIZE, 4, 10.0)
    assert times.expect(SIZE, 4) == 10.0


@pytest.mark.parametrize(
    ('count', 'guess', 'upper'), [(4, 8.0, 8.0), (8, 12.0, 12.0), (5, 9.0, 10.0), (7, 11.0, 12.0), (2, 6.0, 8.0), (16, 20.0, 24.0)]
)
def test_between_and_beyond_known_numbers_of_images(count: int, guess: float, upper: float) -> None:
    """On a line; more images take no less, and at most in proportion more."""
    assert times_of({4: 8.0, 8: 12.0}).best(SIZE, count) == (guess, upper)


@pytest.mark.parametrize(
    ('second', 'count', 'guess'), [(20.0, 16, 32.0), (20.0, 1, 2.5), (6.0, 16, 8.0), (6.0, 2, 6.0), (6.0, 1, 6.0)]
)
def test_lines_do_not_leave_what_is_possible(second: float, count: int, guess: float) -> None:
    assert times_of({4: 8.0, 8: second}).best(SIZE, count)[0] == guess


def test_a_slow_moment_at_one_number_of_images_is_known_from_the_others() -> None:
    times = times_of({1: 1000.0, 32: 30.0})
    assert times.best(SIZE, 1) == (45.0, 45.0)
    times = times_of({1: 2.0, 4: 900.0})
    assert times.best(SIZE, 4) == (12.0, 12.0)


@pytest.mark.parametrize(('overhead', 'per_image'), [(0.0, 10.0), (5.0, 5.0), (10.0, 0.0)])
@pytest.mark.parametrize(('known', 'asked'), [(32, 1), (1, 32), (8, 9)])
def test_one_batch_size_says_what_another_takes_as_it_did_for_the_segment_before(
    overhead: float, per_image: float, known: int, asked: int
) -> None:
    """Warm-up on a batch of 32 gives a usable estimate for one image."""

    def milliseconds(count: int) -> float:
        return overhead + per_image * count

    before, times = times_of({known: milliseconds(known), asked: milliseconds(asked)}), times_of({known: 3 * milliseconds(known)})
    guess, upper = times.best(SIZE, asked, before)
    assert guess == pytest.approx(3 * milliseconds(asked))
    assert guess <= upper
    times.add(SIZE, asked, 2.0 * guess if asked < known else guess / 2)  # the first measurement counts, not the guess
    assert times.best(SIZE, asked, before)[0] == pytest.approx(min(2.0 * guess if asked < known else guess / 2, 1.5 * upper))


def test_without_another_segment_times_are_in_proportion() -> None:
    times = times_of({8: 80.0})
    assert times.best(SIZE, 2) == (20.0, 80.0)
    assert times.best(SIZE, 16) == (160.0, 160.0)


def test_image_sizes_have_times_of_their_own() -> None:
    times = times_of({1: 10.0})
    assert times.best((16, 8), 1) == (20.0, 40.0)  # in proportion to the pixels, until it ran
    before = times_of({1: 4.0})
    before.add((16, 8), 1, 12.0)
    assert times.best((16, 8), 1, before)[0] == 30.0  # as for the segment before
    times.add((16, 8), 1, 25.0)
    assert times.best((16, 8), 1, before) == (25.0, 25.0)
    assert times.best(SIZE, 1, before) == (10.0, 10.0)


def test_hiccups_do_not_move_the_expectation_but_a_slower_machine_does() -> None:
    times = times_of({1: 10.0, 2: 20.0})
    for _ in range(NUM_RECENT):
        times.add(SIZE, 1, 10.0)
    for _ in range(NUM_RECENT // 2):
        times.add(SIZE, 1, 500.0)
        assert times.expect(SIZE, 1) == 10.0
        assert times.expect(SIZE, 1, careful=True) == 500.0
    times.add(SIZE, 1, 15.0)
    assert times.expect(SIZE, 1) == 15.0
    for _ in range(NUM_RECENT):
        times.add(SIZE, 1, 15.0)
    assert times.expect(SIZE, 1, careful=True) == 15.0
    assert times.expect(SIZE, 2) == 30.0  # at all sizes alike
    assert times.best(SIZE, 1) == (10.0, 10.0)
    times.forget_slowness()
    assert times.expect(SIZE, 1) == 10.0


def test_a_much_faster_run_is_told() -> None:
    times = SegmentTimes()
    assert [times.add(SIZE, 1, value) for value in (10.0, 9.5, 5.0, 5.0, 4.0)] == [False, False, True, False, True]


def test_what_ran_longest_ago_is_forgotten_first() -> None:
    times = SegmentTimes()
    for count in range(1, MAX_COUNTS + 1):
        times.add(SIZE, count, float(count))
    times.add(SIZE, 1, 1.0)
    times.add(SIZE, 1000, 1000.0)
    assert sorted(times._best_ms[SIZE]) == [1, *range(3, MAX_COUNTS + 1), 1000]
    for height in range(100, 100 + MAX_IMAGE_SIZES):
        times.add((height, 1), 1, 1.0)
    assert len(times._best_ms) == MAX_IMAGE_SIZES and SIZE not in times._best_ms


def test_times_of_nothing_are_no_reason_to_fail() -> None:
    """Clocks may stand still between two looks."""
    times = times_of({1: 0.0})
    times.add(SIZE, 1, 2.0)
    assert 0 <= times.expect(SIZE, 1) <= times.expect(SIZE, 1, careful=True) == pytest.approx(2.0)


def test_size_of_images() -> None:
    assert image_size(np.zeros((2, 3, 5, 7))) == image_size(np.zeros((2, 4, 3, 5, 7))) == (5, 7)
