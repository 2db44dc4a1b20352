"""Deadlines on a clock that passes as the test says: few answers are late, and depth comes back.

Segments take 10, 8, 6 and 4 ms; deadlines fit some of them with little to spare.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from fake_engine import FakeClock, FakeEngine, fake_images

from dynperceiver_runtime import DynamicRunner, ExitPolicy
from dynperceiver_runtime.deadlines import CALLS_PER_LATE_ANSWER, Deadlines

BASE_MS = (10.0, 8.0, 6.0, 4.0)
RECOVERY = 50  # calls
MOST_LATE = 5  # of any 100 calls
Slowness = Callable[[int, int], float]  # of a segment, by the number of the call and the segment's index


class Simulation:
    """Calls with a deadline, one after another.

    Args:
        slowness: Times so much longer.
        noise: Times vary by about this part.
        size_factor: Times so much longer by number of images and image size.
    """

    def __init__(
        self,
        slowness: Slowness = lambda call, index: 1.0,
        noise: float = 0.0,
        seed: int = 0,
        size_factor: Callable[[int, tuple[int, int]], float] = lambda count, size: 1.0,
    ) -> None:
        self.slowness, self.noise, self.size_factor = slowness, noise, size_factor
        self.random = np.random.default_rng(seed)
        self.call, self.clock = -1, FakeClock()
        self.engine = FakeEngine(np.zeros((4, 1, 3)), self._milliseconds, self.clock)
        self.runner = DynamicRunner(self.engine, clock=self.clock)
        self.exits: list[int] = []
        self.late: list[bool] = []  # for another reason than segment 1

    def _milliseconds(self, index: int, count: int, size: tuple[int, int]) -> float:
        noise = 1 + self.noise * abs(self.random.standard_normal())
        return BASE_MS[index] * self.size_factor(count, size) * self.slowness(self.call, index) * noise

    def warm_up(self, count: int = 1, size: tuple[int, int] = (2, 2)) -> None:
        self.runner.warm_up(fake_images([0] * count, size))

    def run(self, deadline_ms: float, count: int = 1, size: tuple[int, int] = (2, 2)) -> int:
        self.call += 1
        started = self.clock()
        result = self.runner(fake_images([0] * count, size), deadline_ms=deadline_ms)
        self.exits.append(int(result.exit_index[0]))
        self.late.append((self.clock() - started) * 1e3 > deadline_ms and self.exits[-1] > 0)
        return self.exits[-1]

    @property
    def most_late(self) -> int:
        """Late answers in the worst 100 calls."""
        total = np.concatenate([[0], np.cumsum(self.late)])
        return int((total[100:] - total[:-100]).max())


def deadline_of(num_segments: int, spare: float) -> float:
    return sum(BASE_MS[:num_segments]) * (1 + spare)


def between(start: int, end: int, factor: float, *indices: int) -> Slowness:
    return lambda call, index: factor if start <= call < end and index in indices else 1.0


ALL = (0, 1, 2, 3)
DISTURBANCES = {  # end with call 300
    'nothing': between(0, 0, 1.0),
    'one call': between(299, 300, 10.0, *ALL),
    'one call, segment 2': between(299, 300, 10.0, 1),
    'a second': between(270, 300, 10.0, *ALL),
    'a second, late segments': between(270, 300, 10.0, 1, 2, 3),
    'a second, segment 3': between(270, 300, 10.0, 2),
    'long': between(100, 300, 2.0, *ALL),
    'long, segment 2': between(100, 300, 2.0, 1),
    'one segment after another': lambda call, index: 10.0 if (call, index) in ((296, 3), (297, 3), (298, 2), (299, 1)) else 1.0,
    'segment 1': lambda call, index: 8.0 if index == 0 and call < 300 and call % 3 == 0 else 1.0,
}


@pytest.mark.parametrize('spare', [0.05, 0.2])
@pytest.mark.parametrize('num_segments', [2, 4])
@pytest.mark.parametrize('name', DISTURBANCES)
def test_few_answers_are_late_and_depth_comes_back(name: str, num_segments: int, spare: float) -> None:
    simulation = Simulation(DISTURBANCES[name], 0.015)
    simulation.warm_up()
    for _ in range(500):
        simulation.run(deadline_of(num_segments, spare))
    assert simulation.most_late <= MOST_LATE
    before, after = simulation.exits[:100], simulation.exits[300:]
    if name != 'segment 1':
        assert np.mean(before) >= num_segments - 1.1
    assert max(after[:RECOVERY]) >= num_segments - 1
    assert np.mean(after[RECOVERY:]) >= num_segments - 1.1


def test_a_slow_machine_that_stays_slow() -> None:
    """The runner settles where the deadline allows, and goes on trying; when the machine is as before, depth comes back."""
    for slow, end in ((ALL, 1300), (ALL, 1325), ((1,), 1300), ((1,), 1325), ((2,), 1300), ((2,), 1325)):
        simulation = Simulation(between(100, end, 2.0, *slow))
        simulation.warm_up()
        for _ in range(end + RECOVERY + 20):
            simulation.run(deadline_of(3, 0.1))
        assert simulation.most_late <= MOST_LATE
        assert np.mean(simulation.late[200:end]) <= 1 / CALLS_PER_LATE_ANSWER
        right = 0 if slow == ALL else 1  # 20 of 26.4 ms are gone after segment 1, or 26 after segment 2, or 18, and segment 3 takes 12
        assert np.mean([exit_index == right for exit_index in simulation.exits[200:end]]) > 0.95
        assert np.mean([exit_index == 2 for exit_index in simulation.exits[end + RECOVERY :]]) > 0.9


@pytest.mark.parametrize('num_segments', [1, 2, 3])
def test_a_machine_that_becomes_faster(num_segments: int) -> None:
    """Even after a long time in which the next segment was out of the question."""
    for start in (60, 3000):
        simulation = Simulation(between(start, 10**6, 0.4, *ALL))
        simulation.warm_up()
        for _ in range(start + RECOVERY + 5):
            simulation.run(deadline_of(num_segments, 0.05))
        assert np.mean(simulation.late) <= 1 / CALLS_PER_LATE_ANSWER
        fits = [sum(BASE_MS[: k + 1]) * 0.4 <= deadline_of(num_segments, 0.05) for k in range(4)]
        assert simulation.exits[-5:] == [sum(fits) - 1] * 5 and sum(fits) > num_segments


def test_a_slow_moment_during_warm_up() -> None:
    for slow in (ALL, (1, 2), (3,)):
        simulation = Simulation(between(-1, 0, 20.0, *slow))
        simulation.warm_up()
        exits = [simulation.run(deadline_of(4, 0.05)) for _ in range(100)]
        assert exits[RECOVERY:] == [3] * (100 - RECOVERY), slow
        assert sum(simulation.late) == 0


def test_without_warm_up_the_first_run_is_no_measure() -> None:
    """Libraries load and memory is got: the first run is slower by far."""
    has_run: set[int] = set()
    simulation = Simulation()
    simulation.slowness = lambda call, index: 1.0 if index in has_run or has_run.add(index) else 30.0
    exits = [simulation.run(deadline_of(4, 0.1)) for _ in range(100)]
    assert exits[0] == 0 and exits[RECOVERY:] == [3] * (100 - RECOVERY)


@pytest.mark.parametrize('probability', [0.01, 0.05, 0.3])
@pytest.mark.parametrize('indices', [(0,), (1,), (1, 2, 3)])
def test_hiccups_at_any_time(probability: float, indices: tuple[int, ...]) -> None:
    late, depth = [], []
    for seed in range(2):
        hiccup_CE = np.random.default_rng(seed).random((1000, 4)) < probability
        simulation = Simulation(lambda call, index: 8.0 if index in indices and hiccup_CE[max(call, 0), index] else 1.0, 0.01, seed)  # noqa: B023
        simulation.warm_up()
        for _ in range(1000):
            simulation.run(deadline_of(3, 0.1))
        assert simulation.most_late <= MOST_LATE
        late.append(np.mean(simulation.late))
        depth.append(np.mean(simulation.exits))
    assert np.mean(late) <= 1.1 / CALLS_PER_LATE_ANSWER
    if indices == (0,):
        assert np.mean(depth) >= 1.9 * (1 - probability)  # what segment 1 does says nothing of the others
    elif probability == 0.01:
        assert np.mean(depth) >= 1.2


@pytest.mark.parametrize('period', [20, 50])
def test_regular_hiccups(period: int) -> None:
    simulation = Simulation(lambda call, index: 10.0 if call % period == 7 else 1.0, 0.01)
    simulation.warm_up()
    for _ in range(1000):
        simulation.run(deadline_of(3, 0.1))
    assert simulation.most_late <= MOST_LATE
    assert np.mean(simulation.exits) >= 2 * (1 - 1 / period) - 0.1


FACTORS: dict[str, Callable[[int, tuple[int, int]], float]] = {
    'per image': lambda count, size: count * size[0] / 2,
    'per batch': lambda count, size: 1.0 * size[0] / 2,
    'both': lambda count, size: (0.3 + 0.7 * count) * size[0] / 2,
}


@pytest.mark.parametrize('factor', FACTORS)
@pytest.mark.parametrize(('first', 'then'), [(32, 1), (1, 32), (8, 9)])
def test_warm_up_on_another_batch_size_does_not_mislead(factor: str, first: int, then: int) -> None:
    simulation = Simulation(size_factor=FACTORS[factor])
    simulation.warm_up(first)
    deadline_ms = deadline_of(3, 0.1) * FACTORS[factor](then, (2, 2))
    assert [simulation.run(deadline_ms, then) for _ in range(20)] == [2] * 20
    assert not any(simulation.late)


@pytest.mark.parametrize('factor', FACTORS)
@pytest.mark.parametrize('disturbed', [False, True])
def test_batch_and_image_sizes_take_turns(factor: str, disturbed: bool) -> None:
    forms = [(1, (2, 2)), (32, (2, 2)), (5, (6, 4)), (1, (6, 4)), (7, (2, 2)), (3, (8, 8))]
    slowness = between(100, 130, 10.0, 1, 2) if disturbed else between(0, 0, 1.0)
    simulation = Simulation(slowness, 0.01, size_factor=FACTORS[factor])
    simulation.warm_up(32)
    for call in range(300):
        count, size = forms[call % len(forms)]
        simulation.run(deadline_of(3, 0.1) * FACTORS[factor](count, size), count, size)
    assert simulation.most_late <= MOST_LATE
    assert np.mean(simulation.exits[:100]) >= 1.9 and np.mean(simulation.exits[180:]) >= 1.9


def test_samples_that_leave_make_room_for_the_others() -> None:
    """It counts how many go on, not how many came."""
    logits = np.zeros((4, 8, 3))
    logits[0, :7, 0] = 100.0
    clock = FakeClock()
    engine = FakeEngine(logits, lambda index, count, size: 10.0 * count, clock)
    runner = DynamicRunner(engine, ExitPolicy((0.9, 2.0, 2.0)), clock=clock)
    runner.warm_up(fake_images(range(8)))
    result = runner(fake_images(range(8)), deadline_ms=111)
    assert result.exit_index.tolist() == [0] * 7 + [3]
    assert engine.ran[-3:] == [(1, 1), (2, 1), (3, 1)]


def test_the_deadline_is_for_the_whole_call() -> None:
    """What is done between segments takes time, too."""

    class Slow(FakeEngine):
        def start(self, images: np.ndarray) -> object:
            self.clock.spend(5)
            return super().start(images)

        def select(self, state: object, index_S: np.ndarray) -> object:
            self.clock.spend(7)
            return super().select(state, index_S)

    logits, clock = np.zeros((4, 2, 3)), FakeClock()
    logits[:, 0, 0] = 100.0
    engine = Slow(logits, lambda index, count, size: 10.0, clock)
    runner = DynamicRunner(engine, ExitPolicy((0.9, 0.9, 0.9)), clock=clock)
    assert runner(fake_images([0, 1])).exit_index.tolist() == [0, 3]
    for deadline_ms, exit_index in ((31.0, 0), (33.0, 1)):  # start, segment 1, select, segment 2: 32 ms
        started = clock()
        assert runner(fake_images([0, 1]), deadline_ms=deadline_ms).exit_index.tolist() == [0, exit_index]
        assert (clock() - started) * 1e3 <= deadline_ms


def test_calls_without_a_deadline_measure_and_owe_nothing() -> None:
    simulation = Simulation(between(0, 50, 10.0, 1, 2, 3))
    simulation.warm_up()
    for call in range(60):
        simulation.call = call
        assert simulation.runner(fake_images([0])).exit_index.tolist() == [3]
    assert [simulation.run(deadline_of(4, 0.05)) for _ in range(20)] == [3] * 20


def test_calls_at_the_same_time_try_a_segment_once() -> None:
    deadlines, clock = Deadlines(2), FakeClock()
    for milliseconds in (1.0, 50.0):
        call = deadlines.call(clock, clock(), None, (2, 2))
        for index in (0, 1):
            clock.spend(milliseconds)
            call.ran(index, 1)
    tried = []
    for _ in range(200):
        calls = [deadlines.call(clock, clock(), 20.0, (2, 2)) for _ in range(2)]
        tried.append([call.may_begin(1, 1) for call in calls])
        for call in calls:
            call.ended()
    assert tried.count([True, False]) > 0 and [True, True] not in tried


def test_several_threads_may_call() -> None:
    deadlines = Deadlines(4)
    clock = FakeClock()
    failures: list[BaseException] = []

    def calls(seed: int) -> None:
        random = np.random.default_rng(seed)
        try:
            for _ in range(300):
                call = deadlines.call(clock, clock(), 20.0, (int(random.integers(1, 99)), 4))
                for index in range(4):
                    if index and not call.may_begin(index, int(random.integers(1, 99))):
                        break
                    call.ran(index, int(random.integers(1, 99)))
                call.ended()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=calls, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and deadlines._num_calls == 1200
