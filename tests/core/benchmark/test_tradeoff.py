"""The trade-off of a network on this machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from core_models import narrow_model
from inference_scores import network_logits
from torch import nn

from dynperceiver.benchmark.speed import static_trunk_of
from dynperceiver.benchmark.tradeoff import measure_tradeoff, trunk_accuracy
from dynperceiver.calibration.held_out_logits import HeldOutLogits, SampleForm, collect_logits
from dynperceiver.calibration.tradeoff import DYNAMIC, MEASURED, STATIC
from dynperceiver.deployment.fingerprints import fingerprint_of_network


class Images:
    """A data set, its loader, and the data preprocessor of a model, in one."""

    def __init__(self, count: int) -> None:
        self.dataset = [torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(number)) for number in range(count)]
        self.labels = [number % 5 for number in range(count)]

    def collate_fn(self, images: list[torch.Tensor]) -> dict[str, Any]:
        numbers = [next(i for i, kept in enumerate(self.dataset) if kept is image) for image in images]
        return {'inputs': torch.stack(images), 'data_samples': [{'gt_label': self.labels[number]} for number in numbers]}

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Any:
        half = len(self.dataset) // 2
        return iter([self.collate_fn(self.dataset[:half]), self.collate_fn(self.dataset[half:])])


class Classifier(nn.Module):
    """A model around a network."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def data_preprocessor(self, batch: dict[str, Any], training: bool) -> dict[str, Any]:
        assert not training
        return batch


def test_report_of_a_network() -> None:
    network = narrow_model('resnet18', num_classes=5).float().eval()
    model, loader = Classifier(network), Images(24)
    test = collect_logits(model, loader, 'test')
    held_out = replace(test, calibration_set='held out')
    trunk = Classifier(static_trunk_of(network)).eval()
    assert test.form == SampleForm(32, 32, 1)
    report = measure_tradeoff(
        model, loader, held_out, test, backend='torch', num_budgets=3, num_crosses=2, num_cross_samples=6,
        batch_sizes=(1, 2), rounds=3, static=trunk,
    )  # fmt: skip
    (static,) = (row for row in report.rows if row.series == STATIC)
    exit3 = next(row for row in report.rows if row.label == 'exit 3')
    right = (test.logits_ESK[2].argmax(1) == test.labels_S).mean()
    assert exit3.accuracy == pytest.approx(right) and 0 < static.gflops < exit3.gflops
    assert static.accuracy == trunk_accuracy(trunk, loader)
    crosses = [row for row in report.rows if row.series == MEASURED]
    assert 1 <= len(crosses) <= 2 and {row.num_samples for row in crosses} == {6}
    assert all(row.ms > 0 for row in crosses) and report.text.count(' ms measured, ') == len(crosses)
    assert all(part in report.text for part in ('exit 4: ', 'Crossover: faster than the ', 'backbone-only baseline: '))
    assert [row.series for row in report.rows].count(DYNAMIC) == 6
    other = Classifier(static_trunk_of(narrow_model('resnet18', num_classes=7)))
    with pytest.raises(ValueError, match=r'parameters have other shapes than .*pass config and checkpoint of the same CNN'):
        measure_tradeoff(model, loader, held_out, test, backend='torch', static=other)
    larger = replace(held_out, form=SampleForm(64, 64, 1))
    with pytest.raises(ValueError, match=r'held-out samples \(64, 64, 1\) and test samples \(32, 32, 1\) differ'):
        measure_tradeoff(model, loader, larger, test, backend='torch')


def test_crosses_are_of_the_samples_that_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are made up: 1 ms at exit 1 to 4 ms at exit 4; samples that ran are those that accuracy is taken on."""
    import dynperceiver.benchmark.tradeoff as module

    logits_ESK, labels_S = network_logits(40, num_classes=5, seed=4)
    network = narrow_model('resnet18', num_classes=5).float().eval()
    logits = HeldOutLogits(logits_ESK, labels_S, SampleForm(32, 32, 1), fingerprint_of_network(network), 'x', 'torch')
    loader, seen = Images(40), []

    def fake_times(runner: Any, samples: Any, policies: Any) -> Any:
        seen.extend(samples)
        exits = np.stack([np.arange(len(samples)) % 4 for _ in policies])
        return np.full(len(policies), 2.5), exits

    def fake_speed(*args: Any, **kwargs: Any) -> dict[str, Any]:
        rows = [dict(name=f'exit {k}', batch_size=1, ms=float(k)) for k in (1, 2, 3, 4)]
        return dict(rows=rows, gmacs={}, machine='a machine', crossovers={'torch': ['faster than X']})

    monkeypatch.setattr(module, 'time_policies', fake_times)
    monkeypatch.setattr(module, 'measure_speed', fake_speed)
    report = measure_tradeoff(
        Classifier(network), loader, logits, logits, backend='torch', num_budgets=5, num_crosses=1, num_cross_samples=4
    )
    (cross,) = [row for row in report.rows if row.series == MEASURED]
    index_S = np.array([0, 13, 26, 39])
    assert all(torch.equal(image[0], loader.dataset[number]) for image, number in zip(seen, index_S, strict=True))
    answers = [logits_ESK[k, number].argmax() == labels_S[number] for k, number in enumerate(index_S)]
    assert (cross.accuracy, cross.ms, cross.exit_fractions) == (np.mean(answers), 2.5, (0.25,) * 4)
    assert '2.500 ms measured, 2.500 ms by the exits (1.00)' in report.text
    assert 'a machine' in report.caption and 'faster than X' in report.caption


def test_static_trunk_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match='there are no samples to judge the backbone-only baseline on'):
        trunk_accuracy(Classifier(nn.Identity()), [])
