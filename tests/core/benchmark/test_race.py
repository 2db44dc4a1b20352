"""Who is right on which samples, and what batches take that narrow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from core_models import narrow_model
from torch import Tensor, nn

from dynperceiver.benchmark import race as module
from dynperceiver.benchmark.advice import POLICY, SMALLER, STATIC, Candidate
from dynperceiver.benchmark.race import PlainNetwork, answer_samples, judged_samples, plain_networks, race, smaller_sizes
from dynperceiver.benchmark.speed import static_trunk_of
from dynperceiver.benchmark.timing import TimingTable
from dynperceiver.calibration import HeldOutScores
from dynperceiver.calibration.held_out_logits import SampleForm

NUM_CLASSES = 5


class Classifier(nn.Module):
    """A model around a network; batches are normalised already."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def data_preprocessor(self, batch: dict[str, Any], training: bool) -> dict[str, Any]:
        assert not training
        return batch


class Brightness(nn.Module):
    """Answers with the class that the images' mean brightness names; takes images of 32 pixels and of those in ``sizes``."""

    def __init__(self, sizes: tuple[int, ...] = (24, 16)) -> None:
        super().__init__()
        self.sizes = (32, *sizes)

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, ...]:
        if images_BCHW.shape[-1] not in self.sizes:
            raise RuntimeError('a shape that does not fit')
        return (-(images_BCHW.mean((1, 2, 3))[:, None] - torch.arange(NUM_CLASSES)).abs(),)


def batches(labels: list[int], brightness: list[int], rows: int = 1) -> list[dict[str, Any]]:
    """A loader of images of one brightness each, in batches of two."""
    images = torch.tensor(brightness, dtype=torch.float32)[:, None, None, None].expand(-1, 3, 32, 32)
    parts = [slice(start, start + 2) for start in range(0, len(labels), 2)]
    return [
        {
            'inputs': images[part] if rows == 1 else images[part][:, None].expand(-1, rows, -1, -1, -1),
            'data_samples': [{'gt_label': label} for label in labels[part]],
        }
        for part in parts
    ]


def test_answers_at_all_sizes_that_a_network_takes() -> None:
    network = Brightness(sizes=(24,))
    loader = batches([0, 1, 2, 3, 4], [0, 1, 1, 3, 0])
    right, num_rows = answer_samples(Classifier(network), network, loader, 'x', NUM_CLASSES, [(24, 24), (16, 16)])
    assert num_rows == 1 and list(right) == [(32, 32), (24, 24)]
    assert all(found.tolist() == [True, True, False, True, False] for found in right.values())
    clips, num_rows = answer_samples(Classifier(network), network, batches([0, 1], [0, 2], rows=3), 'x', NUM_CLASSES)
    assert num_rows == 3 and clips[32, 32].tolist() == [True, False]


def test_networks_that_cannot_race_are_named() -> None:
    network, loader = Brightness(), batches([0, 1], [0, 1])
    with pytest.raises(ValueError, match='x tells 5 classes apart and the network 7; pass a static network that was trained for the same'):
        answer_samples(Classifier(network), network, loader, 'x', 7)
    with pytest.raises(ValueError, match='x: there are no samples to answer'):
        answer_samples(Classifier(network), network, [], 'x', NUM_CLASSES)
    maps = nn.Conv2d(3, 4, 1)
    with pytest.raises(ValueError, match=r'x: its backbone gives \(2, 4, 32, 32\) for 2 images and no class scores; pass config'):
        answer_samples(Classifier(maps), maps, loader, 'x', NUM_CLASSES)


def test_a_network_and_itself_at_smaller_inputs() -> None:
    network = Brightness(sizes=(24,))
    calibration, test = batches([0, 1, 2, 3], [0, 1, 1, 3]), batches([0, 1, 2, 3, 4, 0], [0, 1, 1, 3, 0, 1])
    judged_S = np.array([1, 2, 5])
    found, left_out = plain_networks(Classifier(network), network, (calibration, test), 'x', NUM_CLASSES, judged_S, [(24, 24), (8, 8)])
    assert [(one.name, one.kind, one.image_size) for one in found] == [('x', STATIC, (32, 32)), ('x at 24x24', SMALLER, (24, 24))]
    assert left_out == ['x at 8x8']
    assert all(one.judged_right_S.tolist() == [True, False, False] and one.calibration_right_S.mean() == 0.75 for one in found)


def test_smaller_sizes() -> None:
    assert smaller_sizes((224, 224)) == [(192, 192), (160, 160), (144, 144), (112, 112)]
    assert smaller_sizes((32, 32)) == [(24, 24), (16, 16)]
    assert all(height < 64 and width < 128 for height, width in smaller_sizes((64, 128))) and smaller_sizes((8, 8)) == []


def test_the_samples_that_judge_are_always_the_same() -> None:
    half_S = judged_samples(101)
    assert len(half_S) == 50 and (np.diff(half_S) > 0).all() and half_S.tolist() == judged_samples(101).tolist()
    assert judged_samples(7, 1).tolist() == list(range(7)) and len(judged_samples(7, 0.01)) == 1
    for fraction, count in ((0, 10), (1.5, 10), (0.5, 0)):
        with pytest.raises(ValueError, match='pass a fraction above 0 and up to 1, of 1 or more samples'):
            judged_samples(count, fraction)


def test_narrowing_is_timed_and_interpolated(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine where a sample takes 1, 2, 3 ms to the exits, half as much again once a batch is scripted to narrow."""
    spent = [0.0]

    class Runner:
        served, policy = SimpleNamespace(num_exits=3), None

        def __call__(self, images: np.ndarray, max_exit: int | None = None) -> None:
            script_S = None if self.policy is None else self.policy.__dict__['exit_index_S']
            spent[0] += len(images) * (max_exit + 1) if script_S is None else 1.5 * float(np.sum(script_S + 1))

    def simulate(calls: Mapping[str, Callable[[], object]], rounds: int) -> TimingTable:
        found = {}
        for name, call in calls.items():
            before = spent[0]
            call()
            found[name] = np.full(rounds, spent[0] - before)
        return TimingTable(found, dict.fromkeys(calls, 1))

    monkeypatch.setattr(module, 'time_calls', simulate)
    machine: Any = SimpleNamespace(runner=Runner(), batch=lambda batch_size: np.zeros((batch_size, 3, 8, 8)))
    times_RE, right_S = np.tile((1.0, 2.0, 3.0), (3, 1)), np.ones(4, bool)
    candidates = [
        Candidate(str(part), POLICY, times_RE, (1 - part / 40, 0.0, part / 40), np.arange(400) < 320 + part, np.zeros(4, np.int64), right_S)
        for part in range(0, 41, 2)
    ]
    alone = Candidate('alone', STATIC, times_RE[:, -1:], (1.0,), np.arange(400) < 360, np.zeros(4, np.int64), right_S)
    found = module._narrowing(machine, 8, [*candidates, alone], 0.005, times_RE[0], rounds=3)
    assert [one.scale for one in found] == pytest.approx([1.5] * len(candidates) + [1.0])


def test_a_race_in_every_setting() -> None:
    network = narrow_model('resnet18', num_classes=NUM_CLASSES).float().eval()
    generator = np.random.default_rng(0)
    shapes = [(network.num_exits, count) for count in (50, 30)]
    calibration, judged = (HeldOutScores(generator.random(shape), generator.random(shape) < 0.5) for shape in shapes)
    right_S = np.arange(50) < 20
    plain = PlainNetwork('alone', STATIC, static_trunk_of(network), (32, 32), 1, right_S, right_S[:30])
    options: dict[str, Any] = dict(engines=['torch'], num_budgets=3, rounds=3)
    verdicts = race(network, SampleForm(32, 32, 1), calibration, judged, [plain], threads=[1, 2], batch_sizes=[2, 1], **options)
    assert [(one.setting.num_threads, one.setting.batch_size) for one in verdicts] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    for verdict in verdicts:
        alone = verdict.candidates[-1]
        assert (alone.name, alone.calibration_accuracy, alone.accuracy) == ('alone', 0.4, 2 / 3) and alone.ms > 0
        assert {one.scale for one in verdict.candidates} == {1.0} or verdict.setting.batch_size == 2
        assert all(one.exit_ms_RE.shape == (3, network.num_exits) for one in verdict.candidates[:-1])
    with pytest.raises(ValueError, match=r'batch_sizes=\(\): pass one or more'):
        race(network, SampleForm(32, 32, 1), calibration, judged, [plain], batch_sizes=[])
    with pytest.raises(ValueError, match='abacus'):
        race(network, SampleForm(32, 32, 1), calibration, judged, [plain], engines=['abacus'])
