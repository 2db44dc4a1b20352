"""The classifier's predictions where images leave early."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from mmengine.registry import MODELS
from tiny_classification import NUM_CLASSES, SMALL, random_batch

from dynperceiver.inference import DynamicRunner, ExitPolicy
from dynperceiver.metrics import DynamicAccuracy, MultiExitAccuracy
from dynperceiver_cls import ClsDataSample
from dynperceiver_cls.models import DynPerceiverClassifier

DYNAMIC_FIELDS = {'gt_label', 'pred_score', 'pred_label', 'exit_index', 'exit_confidence'}


@pytest.fixture(scope='module')
def classifier() -> Any:
    """A classifier in eval mode, float64, whose exits differ in their confidence; tests must not change its weights."""
    torch.manual_seed(0)
    backbone = dict(type='dynperceiver.DynPerceiver', **SMALL['dynperceiver.DynPerceiver'])
    model: DynPerceiverClassifier = MODELS.build(dict(type='dynperceiver_cls.DynPerceiverClassifier', backbone=backbone))
    for name, parameter in model.backbone.exits.named_parameters():
        if name.endswith('weight') and parameter.shape[0] == NUM_CLASSES:
            parameter.data.mul_(20)
    return model.double().eval()


def prepared(model: Any, num_images: int = 8) -> dict[str, Any]:
    """A batch as the model takes it."""
    batch = model.data_preprocessor(random_batch(num_images), training=False)
    return dict(batch, inputs=batch['inputs'].double())


@pytest.fixture
def dynamic(classifier: Any) -> Iterator[Any]:
    """The same with a runner, by which half of the images leave at exit 1, and half of the others at exit 2."""
    batch = prepared(classifier)
    runner = DynamicRunner(classifier, ExitPolicy((2.0, 2.0, 2.0)))
    logits_ESK = runner.full_logits(batch['inputs'])
    first_S = runner.policy.score_of(0, logits_ESK[0])
    threshold = float(sorted(first_S)[3] + sorted(first_S)[4]) / 2
    second_S = sorted(runner.policy.score_of(1, logits_ESK[1, first_S < threshold]))
    runner = DynamicRunner(classifier, ExitPolicy((threshold, float(second_S[1] + second_S[2]) / 2, 2.0)))
    classifier.dynamic_runner = runner
    yield classifier
    classifier.dynamic_runner = None


def test_scores_are_those_of_the_exit_where_an_image_left(dynamic: Any) -> None:
    batch = prepared(dynamic)
    with torch.no_grad():
        logits_ESK = torch.stack(dynamic(batch['inputs']))
    exit_S, score_S = dynamic.dynamic_runner.policy.replay(logits_ESK.numpy())
    samples = dynamic(**batch, mode='predict')
    assert sorted(exit_S.tolist()) == [0] * 4 + [1] * 2 + [3] * 2
    for number, sample in enumerate(samples):
        assert sample is batch['data_samples'][number]
        assert set(sample.keys()) == DYNAMIC_FIELDS
        exit_index = int(exit_S[number])
        assert sample.exit_index == exit_index and isinstance(sample.exit_index, int)
        torch.testing.assert_close(sample.pred_score, logits_ESK[exit_index, number].softmax(0).float(), rtol=1e-6, atol=1e-6)
        assert sample.pred_label == int(logits_ESK[exit_index, number].argmax()) and isinstance(sample.pred_label, int)
        assert sample.exit_confidence == pytest.approx(float(score_S[number]), abs=1e-6) and isinstance(sample.exit_confidence, float)
    assert any(int(logits_ESK[3, number].argmax()) != sample.pred_label for number, sample in enumerate(samples)), 'exits differ'
    metric = DynamicAccuracy()
    metric.process({}, [sample.to_dict() for sample in samples])
    expected = sum(sample.pred_label == sample.gt_label for sample in samples) / 8
    assert metric.evaluate(8)['dynamic/top1'] == pytest.approx(expected)


@pytest.mark.parametrize('folded', [True, False])
def test_where_nobody_leaves_early_a_test_gives_what_a_plain_test_gives(classifier: Any, folded: bool) -> None:
    """To the last digit where the network is not folded; and classes that are equal are equal there, too."""
    classifier = copy.deepcopy(classifier).float()
    with torch.no_grad():
        for parameter in classifier.backbone.exits.parameters():
            if parameter.shape[0] == NUM_CLASSES:
                parameter[2] = parameter[1] = parameter.abs().amax(0) if parameter.dim() == 2 else 5
    batch = classifier.data_preprocessor(random_batch(), training=False)
    plain = [sample.clone() for sample in classifier(**batch, mode='predict')]
    classifier.dynamic_runner = DynamicRunner(classifier, ExitPolicy((2.0, 2.0, 2.0)), folded=folded)
    dynamic = classifier(**batch, mode='predict')
    assert 1 in {sample.pred_label for sample in plain}
    for one, other in zip(plain, dynamic, strict=True):
        assert one.pred_label == other.pred_label
        torch.testing.assert_close(one.pred_score, other.pred_score, rtol=1e-4 if folded else 0, atol=1e-5 if folded else 0)
    expected, found = MultiExitAccuracy(topk=(1, 2, 5)), DynamicAccuracy(topk=(1, 2, 5))
    expected.process({}, [sample.to_dict() for sample in plain])
    found.process({}, [sample.to_dict() for sample in dynamic])
    accuracies, expected_accuracies = found.evaluate(len(plain)), expected.evaluate(len(plain))
    assert all(accuracies[f'dynamic/top{k}'] == expected_accuracies[f'acc/exit4_top{k}'] for k in (1, 2, 5))


def test_without_a_runner_all_exits_run_again(dynamic: Any) -> None:
    inputs = prepared(dynamic)['inputs']
    assert 'exit_index' in dynamic(inputs, mode='predict')[0]
    dynamic.dynamic_runner = None
    (sample, *_) = dynamic(inputs, mode='predict')
    assert set(sample.keys()) == {'exit_scores', 'pred_score', 'pred_label'} and sample.exit_scores.shape == (4, NUM_CLASSES)


def test_images_without_samples_get_new_ones(dynamic: Any) -> None:
    inputs = prepared(dynamic, 3)['inputs']
    samples = dynamic(inputs, mode='predict')
    assert len(samples) == 3 and isinstance(samples[0], ClsDataSample)
    assert set(samples[0].keys()) == DYNAMIC_FIELDS - {'gt_label'}


def test_arrays_of_other_backends_become_tensors(dynamic: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamic.dynamic_runner.engine, 'wrap', lambda array: array)
    inputs = dynamic.data_preprocessor(random_batch(), training=False)['inputs']
    sample = dynamic(inputs, mode='predict')[0]
    assert isinstance(sample.pred_score, torch.Tensor)
    assert type(sample.exit_index) is int and type(sample.exit_confidence) is float


def test_runner_changes_neither_training_nor_what_is_saved(dynamic: Any) -> None:
    keys = set(dynamic.state_dict())
    batch = prepared(dynamic)
    assert {'loss_exit1', 'loss_exit4'} <= set(dynamic(**batch, mode='loss'))
    dynamic.dynamic_runner = None
    assert keys == set(dynamic.state_dict())
