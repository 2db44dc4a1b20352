"""Accuracies of a training batch, against counting by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dynperceiver.losses import batch_accuracies


def _logits(*ranked: tuple[int, ...]) -> Tensor:
    """Logits of one exit whose classes are ranked, best first, as given per sample."""
    logits_SK = torch.zeros(len(ranked), len(ranked[0]))
    for row, classes in zip(logits_SK, ranked, strict=True):
        row[list(classes)] = torch.arange(len(classes), 0, -1).float()
    return logits_SK


FIRST = _logits((0, 1, 2, 3), (1, 0, 2, 3), (3, 2, 1, 0), (2, 0, 1, 3))
SECOND = _logits((3, 2, 1, 0), (2, 1, 0, 3), (0, 1, 3, 2), (1, 0, 3, 2))
LABELS = torch.tensor([0, 0, 0, 1])


def test_by_hand() -> None:
    """Ranks of the labels: 0, 1, 3, 2 in the first exit, and 3, 2, 0, 0 in the second."""
    found = batch_accuracies((FIRST, SECOND), LABELS, (1, 2, 3))
    assert {name: value.item() for name, value in found.items()} == {
        'exit1_top1': 0.25,
        'exit1_top2': 0.5,
        'exit1_top3': 0.75,
        'exit2_top1': 0.5,
        'exit2_top2': 0.5,
        'exit2_top3': 0.75,
    }
    assert all(value.shape == () and value.dtype == torch.float32 for value in found.values())


def test_of_mixed_labels_the_largest_share_counts() -> None:
    targets = 0.6 * torch.eye(4)[LABELS] + 0.4 * torch.eye(4)[torch.tensor([3, 1, 2, 2])]
    assert batch_accuracies((FIRST, SECOND), targets) == batch_accuracies((FIRST, SECOND), LABELS)
    others = 0.4 * torch.eye(4)[LABELS] + 0.6 * torch.eye(4)[torch.tensor([3, 1, 2, 2])]
    assert batch_accuracies((FIRST,), others)['exit1_top1'].item() == 0.5


def test_with_fewer_classes_than_k_every_sample_counts() -> None:
    found = batch_accuracies((FIRST,), LABELS, (1, 5))
    assert {name: value.item() for name, value in found.items()} == {'exit1_top1': 0.25, 'exit1_top5': 1.0}


def test_no_graph_is_kept() -> None:
    logits = FIRST.clone().requires_grad_()
    assert not any(value.requires_grad for value in batch_accuracies((logits,), LABELS).values())


@pytest.mark.parametrize('num_exits', [1, 4])
def test_names_of_the_exits(num_exits: int) -> None:
    found = batch_accuracies((FIRST,) * num_exits, LABELS)
    assert list(found) == [f'exit{number}_top{k}' for number in range(1, num_exits + 1) for k in (1, 5)]
