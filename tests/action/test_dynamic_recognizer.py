"""The recognizer's predictions where videos leave early, all views of a video together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fake_engine import FakeEngine, fake_images
from mmaction.structures import ActionDataSample
from mmengine.registry import MODELS
from tiny_action import BACKBONE, NUM_FRAMES
from torch import nn

import dynperceiver_action  # noqa: F401  registers the recognizer
from dynperceiver.inference import DynamicRunner, ExitPolicy
from dynperceiver.metrics import DynamicAccuracy, MultiExitAccuracy
from dynperceiver_runtime import DynamicRunner as ServingRunner

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


def averaged_logits(model: Any, inputs: torch.Tensor) -> torch.Tensor:
    """Logits of all exits that stand for the mean over the views, shape (exits, videos, classes)."""
    with torch.no_grad():
        logits_ENVK = torch.stack(model.backbone(inputs.flatten(0, 1))).unflatten(1, (len(inputs), -1))
    return logits_ENVK.softmax(-1).mean(2).log() if model.average_views == 'prob' else logits_ENVK.mean(2)


def predicted_scores(model: Any, logits_K: torch.Tensor) -> torch.Tensor:
    return logits_K.softmax(-1) if model.average_views == 'prob' else logits_K


def dividing_policy(logits_ENK: torch.Tensor) -> ExitPolicy:
    """A policy by which half of the videos leave at exit 1."""
    score_N = sorted(ExitPolicy((0.0, 0.0, 0.0)).score_of(0, logits_ENK[0].numpy()).tolist())
    middle = len(score_N) // 2
    assert score_N[middle] - score_N[middle - 1] > 1e-4
    return ExitPolicy(((score_N[middle - 1] + score_N[middle]) / 2, 2.0, 2.0))


@pytest.mark.parametrize('average_views', ['prob', 'score'])
@pytest.mark.parametrize('views', [1, VIEWS])
def test_views_leave_together_on_their_average(views: int, average_views: str) -> None:
    model = build(average_views=average_views)
    inputs, samples = videos(views)
    logits_ENK = averaged_logits(model, inputs)
    policy = dividing_policy(logits_ENK)
    model.dynamic_runner = DynamicRunner(model, policy)
    results = model(inputs, samples, mode='predict')
    exit_N, score_N = policy.replay(logits_ENK.numpy())
    assert sorted(exit_N.tolist()) == [0] * 3 + [3] * 3
    for number, sample in enumerate(results):
        assert sample is samples[number] and set(sample.keys()) == DYNAMIC_FIELDS
        expected_K = predicted_scores(model, logits_ENK[int(exit_N[number]), number])
        assert sample.exit_index == int(exit_N[number]) and isinstance(sample.exit_index, int)
        assert sample.exit_confidence == pytest.approx(float(score_N[number]), abs=1e-6)
        torch.testing.assert_close(sample.pred_score, expected_K.float(), rtol=1e-6, atol=1e-6)
        assert sample.pred_label.tolist() == [int(expected_K.argmax())]


@pytest.mark.parametrize('average_views', ['prob', 'score'])
def test_batches_may_differ_in_their_views(average_views: str) -> None:
    """One after another, as from test sets with other pipelines."""
    model = build(average_views=average_views)
    model.dynamic_runner = DynamicRunner(model, ExitPolicy((2.0, 0.0, 0.0)))
    for views in (VIEWS, 1, 2):
        inputs, samples = videos(views, 2)
        results = model(inputs, samples, mode='predict')
        expected_ENK = averaged_logits(model, inputs)
        for number, sample in enumerate(results):
            assert sample.exit_index == 1
            torch.testing.assert_close(sample.pred_score, predicted_scores(model, expected_ENK[1, number]).float(), rtol=1e-6, atol=1e-6)
    assert model.dynamic_runner.views == 1  # it belongs to others, too


def figures(metric: Any, samples: list[ActionDataSample]) -> dict[str, float]:
    metric.process(None, [sample.to_dict() for sample in samples])
    return metric.compute_metrics(metric.results)


@pytest.mark.parametrize('folded', [True, False])
@pytest.mark.parametrize('average_views', ['prob', 'score'])
@pytest.mark.parametrize('views', [1, VIEWS])
def test_where_nobody_leaves_early_a_test_gives_what_a_plain_test_gives(views: int, average_views: str, folded: bool) -> None:
    model = build(average_views=average_views).float()
    inputs, plain = videos(views)
    inputs = inputs.float()
    model(inputs, plain, mode='predict')
    model.dynamic_runner = DynamicRunner(model, ExitPolicy((2.0, 2.0, 2.0)), folded=folded)
    dynamic = model(inputs, videos(views)[1], mode='predict')
    for one, other in zip(plain, dynamic, strict=True):
        assert torch.equal(one.pred_label, other.pred_label)
        torch.testing.assert_close(one.pred_score, other.pred_score, rtol=1e-4 if folded else 0, atol=1e-4 if folded else 0)
    expected = figures(MultiExitAccuracy(topk=(1, 2, 5)), plain)
    found = figures(DynamicAccuracy(topk=(1, 2, 5)), dynamic)
    assert len({expected[f'exit4_top{k}'] for k in (1, 2, 5)}) > 1
    for k in (1, 2, 5):
        assert found[f'top{k}'] == expected[f'exit4_top{k}']


class Table(nn.Module):
    """In a network's place: logits of single clips, by the number in a clip's pixels."""

    num_frames = 1

    def __init__(self, logits_RK: np.ndarray) -> None:
        super().__init__()
        self.logits_RK = torch.from_numpy(logits_RK)

    def forward(self, images_BCHW: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.logits_RK[images_BCHW[:, 0, 0, 0].long()],) * 4


@pytest.mark.parametrize('average_views', ['prob', 'score'])
@pytest.mark.parametrize('views', [1, 2, 3, 10])
@pytest.mark.parametrize('kind', ['few values', 'sure', 'views swap', 'nearly equal'])
def test_ties_are_broken_as_in_a_plain_test(kind: str, views: int, average_views: str) -> None:
    """Where classes are equal or all but equal, all that happens to their numbers has to be the same."""
    random, num_videos = np.random.default_rng(0), 300
    logits_NVK = random.choice(np.array([-1.3, 2.7]), (num_videos, views, 5))
    if kind == 'sure':
        logits_NVK *= 1000
    elif kind == 'views swap':
        logits_NVK[:, 1::2] = logits_NVK[:, ::2][:, : views // 2, ::-1]
    elif kind == 'nearly equal':
        logits_NVK = 3 + random.integers(0, 4, logits_NVK.shape) * 2.0**-21
    table = Table(logits_NVK.reshape(-1, 5).astype(np.float32))
    model = build(average_views=average_views)
    model.backbone = table
    inputs = torch.from_numpy(fake_images(range(num_videos * views))).unflatten(0, (num_videos, views))
    plain, dynamic = ([ActionDataSample() for _ in range(num_videos)] for _ in range(2))
    model(inputs, plain, mode='predict')
    engine = FakeEngine(np.stack([table.logits_RK.numpy()] * 4))
    model.dynamic_runner = ServingRunner(engine, average_views=average_views)
    model(inputs, dynamic, mode='predict')
    scores_NK = torch.stack([sample.pred_score for sample in plain])
    largest_N = scores_NK.amax(1, keepdim=True)
    assert ((scores_NK == largest_N).sum(1) > 1).any()
    assert torch.equal(scores_NK, torch.stack([sample.pred_score for sample in dynamic]))
    assert [sample.pred_label.item() for sample in plain] == [sample.pred_label.item() for sample in dynamic]


def test_later_segments_see_whole_videos_that_stay_alone() -> None:
    model = build()
    inputs, samples = videos(VIEWS)
    model.dynamic_runner = DynamicRunner(model, dividing_policy(averaged_logits(model, inputs)))
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
