"""The joint loss of all exits in both forms, against numbers worked out with NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dynperceiver.losses import MultiExitLoss

WEIGHTS = (0.5, 0.25, 1.0, 2.0)


def _logits() -> list[Tensor]:
    return [torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(4)]


def _log_softmax(logits: Tensor, temperature: float = 1.0) -> np.ndarray:
    scores = logits.detach().numpy() / temperature
    return scores - np.log(np.exp(scores).sum(1, keepdims=True))


def _by_hand(
    logits: list[Tensor], target: np.ndarray, alpha: float, temperature: float = 1.0, form: str = 'sum', smoothing: float = 0.0
) -> tuple[list[float], float]:
    """Cross-entropies and the divergence, weighted; ``target`` holds probabilities."""
    target = target * (1 - smoothing) + smoothing / target.shape[1]
    entropies = [-(target * _log_softmax(one)).sum(1).mean() for one in logits]
    teacher = _log_softmax(logits[3], temperature)
    divergences = [(np.exp(teacher) * (teacher - _log_softmax(one, temperature))).sum(1).mean() for one in logits[:3]]
    if form == 'sum':
        return [w * ce for w, ce in zip(WEIGHTS, entropies, strict=True)], alpha * temperature**2 * sum(divergences)
    early = [w * (1 - alpha) * ce for w, ce in zip(WEIGHTS[:3], entropies[:3], strict=True)]
    return [*early, WEIGHTS[3] * entropies[3]], alpha * temperature**2 * sum(w * kl for w, kl in zip(WEIGHTS, divergences, strict=False))


@pytest.mark.parametrize('form', ['sum', 'mixed'])
@pytest.mark.parametrize('temperature', [1.0, 3.0])
@pytest.mark.parametrize('soft', [False, True])
@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_both_forms_by_hand(form: str, temperature: float, soft: bool, smoothing: float) -> None:
    logits = _logits()
    labels = torch.tensor([1, 3, 0])
    probabilities = np.eye(4)[labels.numpy()]
    if soft:
        probabilities = 0.7 * probabilities + 0.3 * np.roll(probabilities, 1, axis=0)
    loss = MultiExitLoss(WEIGHTS, 0.4, temperature, form, smoothing)
    terms = loss(logits, torch.from_numpy(probabilities) if soft else labels)
    entropies, divergence = _by_hand(logits, probabilities, 0.4, temperature, form, 0.0 if soft else smoothing)
    assert list(terms) == ['loss_exit1', 'loss_exit2', 'loss_exit3', 'loss_exit4', 'loss_distill']
    assert [term.item() for term in terms.values()] == pytest.approx([*entropies, divergence], rel=1e-12)
    assert all(term.shape == () for term in terms.values())


def test_one_sample_two_classes() -> None:
    """ln 2 for a draw, -ln 0.75 for three to one; KL(1/2, 1/2 || 3/4, 1/4) = ln 2 - ln 3 / 2."""
    draw, sure = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[3.0, 1.0]], dtype=torch.float64).log()
    terms = MultiExitLoss()([sure, draw, draw, draw], torch.tensor([0]))
    ln2, ln3 = np.log(2), np.log(3)
    expected = [0.5 * (2 * ln2 - ln3), 0.5 * ln2, ln2, ln2, 0.5 * (ln2 - ln3 / 2)]
    assert [term.item() for term in terms.values()] == pytest.approx(expected)


@pytest.mark.parametrize('form', ['sum', 'mixed'])
def test_the_teacher_is_not_taught(form: str) -> None:
    logits = _logits()
    MultiExitLoss(WEIGHTS, 0.5, 2.0, form)(logits, torch.tensor([0, 1, 2]))['loss_distill'].backward()
    assert logits[3].grad is None
    assert all(one.grad.abs().sum() > 0 for one in logits[:3])


def test_without_distillation() -> None:
    terms = MultiExitLoss(distill_weight=0)(_logits(), torch.tensor([0, 1, 2]))
    assert list(terms) == ['loss_exit1', 'loss_exit2', 'loss_exit3', 'loss_exit4']


def test_the_reference_recipe_is_the_default() -> None:
    loss = MultiExitLoss()
    assert (loss.exit_weights, loss.distill_weight, loss.temperature, loss.form) == ((0.5, 0.5, 1.0, 1.0), 0.5, 1.0, 'sum')


def test_the_mixed_form_of_the_paper_divides_between_labels_and_teacher() -> None:
    logits = _logits()
    target = torch.tensor([0, 1, 2])
    only_labels = MultiExitLoss((1, 1, 1, 1), 0.0, form='mixed')(logits, target)
    only_teacher = MultiExitLoss((1, 1, 1, 1), 1.0, form='mixed')(logits, target)
    half = MultiExitLoss((1, 1, 1, 1), 0.5, form='mixed')(logits, target)
    assert [only_teacher[f'loss_exit{k}'].item() for k in (1, 2, 3)] == [0, 0, 0]
    for k in (1, 2, 3):
        assert half[f'loss_exit{k}'].item() == pytest.approx(only_labels[f'loss_exit{k}'].item() / 2)
    assert half['loss_exit4'].item() == pytest.approx(only_labels['loss_exit4'].item())
    assert half['loss_distill'].item() == pytest.approx(only_teacher['loss_distill'].item() / 2)


def test_huge_logits_stay_finite() -> None:
    logits = [torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True) for _ in range(4)]
    total = sum(MultiExitLoss()(logits, torch.tensor([1])).values())
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(one.grad).all() for one in logits)


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        ({'exit_weights': ()}, r'exit_weights=\(\): one number of at least 0 per exit is needed'),
        ({'exit_weights': (1, 1, 1, -1)}, r'exit_weights=\(1, 1, 1, -1\): one number of at least 0'),
        ({'form': 'paper'}, r"form='paper': choose 'sum' \(reference recipe\) or 'mixed' \(paper, Eq\. 3\)"),
        ({'distill_weight': -0.1}, r'distill_weight=-0\.1: at least 0 is needed'),
        ({'distill_weight': 1.5, 'form': 'mixed'}, r"distill_weight=1\.5: .* at most 1 for form='mixed'"),
        ({'temperature': 0}, r'temperature=0: a positive number is needed; the recipe has 1'),
    ],
)
def test_wrong_numbers(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        MultiExitLoss(**arguments)


def test_three_exits_are_not_enough() -> None:
    with pytest.raises(ValueError, match=r'the model has 3 exits, but exit_weights=.* one weight per exit'):
        MultiExitLoss()(_logits()[:3], torch.tensor([0, 1, 2]))


def test_a_static_trunk_has_one_exit() -> None:
    """Its loss is the cross-entropy, whatever the form and the weight of distillation."""
    logits = _logits()[0]
    target = torch.tensor([1, 3, 0])
    expected = -_log_softmax(logits)[range(3), target.numpy()].mean()
    for arguments in ({}, {'form': 'mixed'}, {'distill_weight': 0.0}, {'temperature': 4.0}):
        terms = MultiExitLoss(exit_weights=(1,), **arguments)((logits,), target)
        assert list(terms) == ['loss_exit1']
        assert terms['loss_exit1'].item() == pytest.approx(expected, rel=1e-12)


def test_the_one_exit_may_weigh_less_and_be_smoothed() -> None:
    logits, target = _logits()[0], torch.tensor([1, 3, 0])
    smooth = 0.9 * np.eye(4)[target.numpy()] + 0.1 / 4
    expected = -0.25 * (smooth * _log_softmax(logits)).sum(1).mean()
    assert MultiExitLoss(exit_weights=(0.25,), label_smoothing=0.1)([logits], target)['loss_exit1'].item() == pytest.approx(expected)


@pytest.mark.parametrize(('weights', 'num_exits'), [((1,), 4), ((0.5, 0.5, 1, 1), 1)])
def test_as_many_weights_as_exits(weights: tuple[float, ...], num_exits: int) -> None:
    with pytest.raises(ValueError, match=rf'the model has {num_exits} exits, but exit_weights=.*\(1,\) for a backbone-only baseline'):
        MultiExitLoss(exit_weights=weights)(_logits()[:num_exits], torch.tensor([0, 1, 2]))
