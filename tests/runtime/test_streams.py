"""Streams without a network: what goes in comes out once, whatever comes between."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest
from fake_engine import FakeEngine, fake_images

from dynperceiver_runtime import DynamicRunner, EngineError, ExitPolicy, StreamResult, gather

NUM_ROWS, THRESHOLDS = 12, (0.6, 0.6, 0.6)


@pytest.fixture
def runner() -> DynamicRunner:
    """Row r of the table leaves at exit r modulo 4."""
    logits = np.random.default_rng(0).normal(0, 0.1, (4, NUM_ROWS, 5))
    rows = np.arange(NUM_ROWS)
    logits[rows % 4, rows, rows % 5] = 4.0
    return DynamicRunner(FakeEngine(logits), ExitPolicy(THRESHOLDS))


def numbers(results: list[StreamResult]) -> list[int]:
    return sorted(np.concatenate([part.sample_index for part in results]).tolist()) if results else []


def consume(stream: Iterator[StreamResult], error: type[Exception]) -> tuple[list[StreamResult], Exception]:
    """What comes before an error, and the error."""
    results = []
    with pytest.raises(error) as caught:
        for part in stream:
            results.append(part)
    return results, caught.value


def test_answers_are_those_of_calls(runner: DynamicRunner) -> None:
    images = fake_images(range(NUM_ROWS))
    expected = runner(images)
    assert expected.exit_index.tolist() == [row % 4 for row in range(NUM_ROWS)]
    result = gather(runner.stream(np.split(images, [1, 1, 6, 8]), batch_size=3))
    for name in ('logits', 'exit_index', 'confidence'):
        np.testing.assert_array_equal(getattr(result, name), getattr(expected, name))


def test_images_that_wait_are_the_streams_own(runner: DynamicRunner) -> None:
    """Cameras fill one buffer again and again."""
    buffer = fake_images(range(2))

    def batches() -> Iterator[np.ndarray]:
        for start in range(0, NUM_ROWS, 2):
            buffer[:] = fake_images(range(start, start + 2))
            yield buffer

    result = gather(runner.stream(batches(), batch_size=5))
    assert result.exit_index.tolist() == [row % 4 for row in range(NUM_ROWS)]


def test_images_of_different_sizes_wait_apart(runner: DynamicRunner) -> None:
    rows = np.arange(NUM_ROWS)
    sizes = [(2, 2), (4, 4), (2, 2), (3, 5), (4, 4), (2, 2)]
    results = list(runner.stream([fake_images(part, size) for part, size in zip(np.split(rows, 6), sizes, strict=True)], batch_size=4))
    result = gather(results)
    assert numbers(results) == rows.tolist() and result.exit_index.tolist() == (rows % 4).tolist()
    assert max(count for _, count in runner.engine.ran) == 4  # those of one size are gathered


def test_cap_and_views_of_one_stream(runner: DynamicRunner) -> None:
    images = fake_images(range(NUM_ROWS))
    result = gather(runner.stream([images], batch_size=5, max_exit=1))
    assert result.exit_index.tolist() == [min(row % 4, 1) for row in range(NUM_ROWS)]
    runner = DynamicRunner(runner.engine, ExitPolicy((0.0, 0.0, 0.0)))
    result = gather(runner.stream(np.split(images, [4]), batch_size=2, views=2))
    np.testing.assert_allclose(result.logits, runner.engine.logits_ERK[0].reshape(6, 2, 5).mean(1), rtol=1e-6)
    assert (runner.views, runner.max_exit) == (1, 3)
    with pytest.raises(ValueError, match='views=0'):
        runner.stream([images], views=0)
    with pytest.raises(ValueError, match=r'max_exit=4: pass the index of an exit, 0 to 3 \(exit 1 has index 0, exit 4 has index 3\)'):
        runner.stream([images], max_exit=4)


def test_a_stream_may_be_left_early(runner: DynamicRunner) -> None:
    closed: list[bool] = []

    def batches() -> Iterator[np.ndarray]:
        try:
            while True:
                yield fake_images([0, 1, 2, 3])
        finally:
            closed.append(True)

    source = batches()
    stream = runner.stream(source, batch_size=4)
    assert next(stream).sample_index.tolist() == [0]
    stream.close()
    assert list(stream) == [] and not closed  # the batches are their maker's
    assert next(source) is not None


def test_when_batches_cannot_be_made_those_before_are_answered(runner: DynamicRunner) -> None:
    def batches() -> Iterator[np.ndarray]:
        yield fake_images(range(6))
        yield fake_images(range(6, 8))
        raise OSError(5, 'the camera is gone')

    results, error = consume(runner.stream(batches(), batch_size=64), OSError)
    assert numbers(results) == list(range(8))
    assert error.args == (5, 'the camera is gone')
    if sys.version_info >= (3, 11):
        assert error.__notes__ == ['in batch 3 of the stream, counted from 1']


def test_a_batch_that_cannot_be_run_is_named_once_those_before_are_answered(runner: DynamicRunner) -> None:
    batches = [fake_images(range(4)), fake_images(range(4))[0], fake_images(range(4))]
    results, error = consume(runner.stream(batches, batch_size=64), EngineError)
    assert numbers(results) == [0, 1, 2, 3]
    assert str(error) == 'batch 2 of the stream, counted from 1: input of shape (3, 2, 2): pass images as (S, 3, H, W)'
    results, error = consume(runner.stream([fake_images(range(4)), fake_images(range(3))], batch_size=64, views=2), ValueError)
    assert len(results) > 0
    assert str(error).startswith('batch 2 of the stream, counted from 1: 3 clips are no whole number of videos of 2 views')


def test_logits_that_are_no_numbers_name_their_batches(runner: DynamicRunner) -> None:
    runner.engine.logits_ERK[1, 7] = np.nan
    batches = np.split(fake_images(range(NUM_ROWS)), 6)
    results, error = consume(runner.stream(batches, batch_size=3), ValueError)
    assert str(error).startswith('batches 3 to 4 of the stream, counted from 1: exit 2: the logits of 1 of 3 samples are not finite')
    assert numbers(results) == [0, 1, 2, 3, 4, 8, 9]  # without those that ran with it, and batch 6, which was not read


def test_errors_of_the_engine_are_raised_as_they_are(runner: DynamicRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(exit_index: int, state: object) -> None:
        raise KeyError('latent')

    monkeypatch.setattr(runner.engine, 'run', run)
    results, error = consume(runner.stream([fake_images(range(4))]), KeyError)
    assert results == [] and error.args == ('latent',)


def test_an_interruption_is_not_put_off(runner: DynamicRunner) -> None:
    def batches() -> Iterator[np.ndarray]:
        yield fake_images(range(2))
        raise KeyboardInterrupt

    results = []
    with pytest.raises(KeyboardInterrupt):
        for part in runner.stream(batches(), batch_size=64):
            results.append(part)
    assert results == []
