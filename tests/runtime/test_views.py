"""Views of a video: their average, and that they leave together."""

from __future__ import annotations

import numpy as np
import pytest
from fake_engine import FakeEngine, fake_images

from dynperceiver_runtime import DynamicRunner, ExitPolicy
from dynperceiver_runtime.views import VIEW_AVERAGES, average_logits


def softmax(logits: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits, np.float64)
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize('scale', [0.1, 3.0, 30.0])
def test_averages(scale: float) -> None:
    logits_SVK = (scale * np.random.default_rng(0).normal(size=(20, 7, 11))).astype(np.float32)
    score_SK, prob_SK = (average_logits(logits_SVK, name) for name in ('score', 'prob'))
    assert score_SK.dtype == prob_SK.dtype == np.float32
    np.testing.assert_allclose(score_SK, logits_SVK.astype(np.float64).mean(1), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(softmax(prob_SK), softmax(logits_SVK).mean(1), rtol=1e-5, atol=1e-30)
    if scale > 1:
        assert np.abs(softmax(score_SK) - softmax(prob_SK)).max() > 0.1


def test_probabilities_that_no_float_holds() -> None:
    logits_SVK = np.array([[[0.0, -2000.0, -1e30], [0.0, -4000.0, -1e30]]], np.float32)
    np.testing.assert_allclose(average_logits(logits_SVK, 'prob'), [[0.0, -2000 - np.log(2), -1e30]], rtol=1e-6)
    largest = np.finfo(np.float32).max
    assert np.isfinite(average_logits(np.array([[[largest, 0], [largest, 0]]], np.float32), 'score')).all()


@pytest.mark.parametrize('average_views', VIEW_AVERAGES)
def test_one_view_is_left_as_it_is(average_views: str) -> None:
    logits_SVK = np.random.default_rng(0).normal(size=(3, 1, 4)).astype(np.float32)
    np.testing.assert_array_equal(average_logits(logits_SVK, average_views), logits_SVK[:, 0])


@pytest.mark.parametrize('average_views', VIEW_AVERAGES)
def test_classes_that_change_places_between_views_tie(average_views: str) -> None:
    logits_VK = np.array([[2.3, -0.7, 0.1], [-0.7, 2.3, 0.1]], np.float32)
    averaged_K = average_logits(logits_VK[None], average_views)[0]
    assert averaged_K[0] == averaged_K[1]


@pytest.mark.parametrize('average_views', VIEW_AVERAGES)
def test_a_video_does_not_depend_on_the_others(average_views: str) -> None:
    logits_SVK = np.random.default_rng(1).normal(size=(33, 5, 101)).astype(np.float32)
    together_SK = average_logits(logits_SVK, average_views)
    for number in range(33):
        np.testing.assert_array_equal(average_logits(logits_SVK[number : number + 1], average_views)[0], together_SK[number])


@pytest.mark.parametrize('average_views', VIEW_AVERAGES)
def test_views_leave_together(average_views: str) -> None:
    """By the policy's decision on their average, in calls, streams and the logits that policies are made from."""
    views, logits_ERK = 3, (4 * np.random.default_rng(2).normal(size=(4, 24, 5))).astype(np.float32)
    averaged_ESK = np.stack([average_logits(logits_RK.reshape(8, views, 5), average_views) for logits_RK in logits_ERK])
    middle = [float(np.median(softmax(averaged_SK).max(-1))) for averaged_SK in averaged_ESK]
    policy = ExitPolicy(tuple(middle[:3]))
    exit_S, score_S = policy.replay(averaged_ESK)
    assert len(set(exit_S.tolist())) > 2
    engine, images = FakeEngine(logits_ERK), fake_images(range(24))
    runner = DynamicRunner(engine, policy, views=views, average_views=average_views)
    result = runner(images)
    assert result.exit_index.tolist() == exit_S.tolist()
    np.testing.assert_array_equal(result.logits, averaged_ESK[exit_S, np.arange(8)])
    np.testing.assert_allclose(result.confidence, score_S, rtol=1e-6)
    counts = [count for _, count in engine.ran]
    assert counts == [views * int((exit_S >= index).sum()) for index in range(len(counts))]
    np.testing.assert_array_equal(runner.full_logits(images), averaged_ESK)
    per_call = DynamicRunner(engine, policy, average_views=average_views)
    np.testing.assert_array_equal(per_call.full_logits(images, views=views), averaged_ESK)
    assert per_call(images, views=views).exit_index.tolist() == exit_S.tolist()
    assert len(per_call(images).exit_index) == 24


def test_how_views_are_averaged_is_known_from_what_is_served() -> None:
    class Exported(FakeEngine):
        average_views = 'prob'

    logits = np.zeros((4, 2, 3))
    assert DynamicRunner(FakeEngine(logits)).average_views == 'score'
    assert DynamicRunner(Exported(logits)).average_views == 'prob'
    assert DynamicRunner(Exported(logits), average_views='score').average_views == 'score'


def test_wrong_settings() -> None:
    engine = FakeEngine(np.zeros((4, 2, 3)))
    with pytest.raises(ValueError, match=r"average_views='mean': choose 'prob' \(mean of the softmax probabilities\) or 'score'"):
        DynamicRunner(engine, average_views='mean')
    for views in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match=f'views={views}: a sample has a whole number of views'):
            DynamicRunner(engine, views=views)
        with pytest.raises(ValueError, match=f'views={views}: '):
            DynamicRunner(engine)(fake_images([0, 1]), views=views)
