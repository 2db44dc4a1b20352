"""The recognizer's predictions where videos leave early, all views of a video together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmaction.structures import ActionDataSample
from mmengine.registry import MODELS
from tiny_action import BACKBONE, NUM_FRAMES

import dynperceiver_action  # noqa: F401  registers the recognizer
from dynperceiver.inference import DynamicRunner, ExitPolicy

NUM_CLASSES, NUM_VIDEOS, VIEWS = 8, 6, 3
DYNAMIC_FIELDS = {'gt_label', 'pred_score', 'pred_label', 'exit_index', 'exit_confidence'}


def build(**changes: Any) -> Any:
    """A narrow recognizer in eval mode, float64, whose exits differ in their confidence."""
    backbone = dict(type='dynperceiver.DynPerceiver', num_classes=NUM_CLASSES, temporal_shift='bidirectional', **BACKBONE)
    model = MODELS.build(dict(type='dynperceiver_action.EarlyExitRecognizer', backbone=backbone, **changes)).eval()
    for name, parameter in model.backbone.exits.named_parameters():
        if name.endswith('weight') and parameter.shape[0] == NUM_CLASSES:
            parameter.data.mul_(20)
    return model.double()


def videos(views: int = 1, num_videos: int = NUM_VIDEOS) -> tuple[torch.Tensor, list[ActionDataSample]]:
    samples = [ActionDataSample().set_gt_label(number % NUM_CLASSES) for number in range(num_videos)]
    return torch.randn(num_videos, views * NUM_FRAMES, 3, 32, 32, dtype=torch.float64), samples


def mean_logits(model: Any, inputs: torch.Tensor) -> torch.Tensor:
    """Logits of all exits, mean over the views, shape (exits, videos, classes)."""
    with torch.no_grad():
        return torch.stack(model.backbone(inputs.flatten(0, 1))).unflatten(1, (len(inputs), -1)).mean(2)


def dividing_policy(logits_ENK: torch.Tensor) -> ExitPolicy:
    """A policy by which half of the videos leave at exit 1."""
    score_N = sorted(ExitPolicy((0.0, 0.0, 0.0)).score_of(0, logits_ENK[0].numpy()).tolist())
    middle = len(score_N) // 2
    assert score_N[middle] - score_N[middle - 1] > 1e-4
    return ExitPolicy(((score_N[middle - 1] + score_N[middle]) / 2, 2.0, 2.0))


@pytest.mark.parametrize('average_views', ['prob', 'score'])
@pytest.mark.parametrize('views', [1, VIEWS])
def test_views_leave_together_on_their_mean_logits(views: int, average_views: str) -> None:
    model = build(average_views=average_views)
    inputs, samples = videos(views)
    logits_ENK = mean_logits(model, inputs)
    policy = dividing_policy(logits_ENK)
    model.dynamic_runner = DynamicRunner(model, policy)
    results = model(inputs, samples, mode='predict')
    exit_N, score_N = policy.replay(logits_ENK.numpy())
    assert sorted(exit_N.tolist()) == [0] * 3 + [3] * 3
    for number, sample in enumerate(results):
        assert sample is samples[number] and set(sample.keys()) == DYNAMIC_FIELDS
        expected_K = logits_ENK[int(exit_N[number]), number].softmax(0)
        assert sample.exit_index == int(exit_N[number]) and isinstance(sample.exit_index, int)
        assert sample.exit_confidence == pytest.approx(float(score_N[number]), abs=1e-6)
        torch.testing.assert_close(sample.pred_score, expected_K.float(), rtol=1e-6, atol=1e-6)
        assert sample.pred_label.tolist() == [int(expected_K.argmax())]


def test_batches_may_differ_in_their_views() -> None:
    """One after another, as from test sets with other pipelines."""
    model = build()
    model.dynamic_runner = DynamicRunner(model, ExitPolicy((2.0, 0.0, 0.0)))
    for views in (VIEWS, 1, 2):
        inputs, samples = videos(views, 2)
        results = model(inputs, samples, mode='predict')
        expected_ENK = mean_logits(model, inputs)
        for number, sample in enumerate(results):
            assert sample.exit_index == 1
            torch.testing.assert_close(sample.pred_score, expected_ENK[1, number].softmax(0).float(), rtol=1e-6, atol=1e-6)


def test_later_segments_see_whole_videos_that_stay_alone() -> None:
    model = build()
    inputs, samples = videos(VIEWS)
    model.dynamic_runner = DynamicRunner(model, dividing_policy(mean_logits(model, inputs)))
    seen: list[tuple[int, int]] = []
    for segment in model.backbone.segments:
        segment.register_forward_hook(lambda module, args, output: seen.append((module.number, len(output[0]))))
    model(inputs, samples, mode='predict')
    assert seen == [(1, 6 * VIEWS), (2, 3 * VIEWS), (3, 3 * VIEWS), (4, 3 * VIEWS)]


def test_frames_that_are_no_whole_clips_are_refused() -> None:
    model = build()
    model.dynamic_runner = DynamicRunner(model, ExitPolicy((0.5, 0.5, 0.5)))
    _, samples = videos(num_videos=2)
    with pytest.raises(ValueError, match=r'6 frames per video, .* num_frames=4'):
        model(torch.randn(2, 6, 3, 32, 32, dtype=torch.float64), samples, mode='predict')


def test_without_a_runner_all_exits_run() -> None:
    model = build()
    inputs, samples = videos(num_videos=1)
    assert model.dynamic_runner is None
    (sample,) = model(inputs, samples, mode='predict')
    assert 'exit_index' not in sample and sample.exit_scores.shape == (4, NUM_CLASSES)
