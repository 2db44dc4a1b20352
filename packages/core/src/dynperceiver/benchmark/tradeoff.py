"""The trade-off of a trained network on this machine, measured.

Shape suffixes: E exits, S samples, P policies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from dynperceiver_runtime import UserError

from ..calibration import HeldOutScores
from ..calibration.held_out_logits import HeldOutLogits, batch_images
from ..calibration.tradeoff import DYNAMIC, EXIT, MEASURED, STATIC, TradeoffPoints, TradeoffRow, tradeoff_points
from ..deployment.runner import DynamicRunner
from ..models import DynPerceiver, network_with_exits
from .speed import eager_call, measure_speed, static_trunk_of, time_policies
from .timing import num_torch_threads

__all__ = ['TradeoffReport', 'measure_tradeoff', 'trunk_accuracy']

CROSS_BYTES = 2**30  # of float32 images that are held while policies are timed
Progress = Callable[[str, Iterable[Any]], Iterable[Any]]


def _silent(what: str, items: Iterable[Any]) -> Iterable[Any]:
    return items


def trunk_accuracy(model: nn.Module, loader: Any, progress: Progress = _silent) -> float:
    """Fraction of a loader's samples that a classifier on a backbone-only baseline gets right.

    Args:
        model: The classifier, with its backbone and data preprocessor.
        loader: Loader of labelled images.
        progress: Goes through the loader and shows how far it is.

    Raises:
        UserError: If there are no samples.
    """
    right = total = 0
    for batch in progress('backbone-only baseline', loader):
        images_BCHW, label_S = batch_images(model, batch)
        backbone = model.backbone
        assert isinstance(backbone, nn.Module)
        right += int((eager_call(backbone, images_BCHW)().argmax(1) == label_S).sum())
        total += len(label_S)
    if not total:
        raise UserError('there are no samples to judge the backbone-only baseline on; check the test data')
    return right / total


def _measured_rows(
    model: nn.Module, loader: Any, points: TradeoffPoints, numbers: Sequence[int], index_S: np.ndarray, test: HeldOutScores, **costs: Any
) -> tuple[list[TradeoffRow], list[str]]:
    """Points of policies that were run and timed sample by sample, and what the exits' times had said of the same samples."""
    samples = []
    for index in index_S.tolist():
        images_BCHW, _ = batch_images(model, loader.collate_fn([loader.dataset[index]]))
        samples.append(images_BCHW)
    network, backend = network_with_exits(model), costs['backend']
    options: dict[str, Any] = {'num_threads': torch.get_num_threads()} if backend == 'onnxruntime' else {}
    runner = DynamicRunner(model, backend=backend, views=len(samples[0]) // network.num_frames, **options)
    policies = [points.policies[number] for number in numbers]
    mean_ms_P, exit_index_PS = time_policies(runner, samples, policies)
    rows, lines = [], []
    for number, policy, mean_ms, exit_S in zip(numbers, policies, mean_ms_P.tolist(), exit_index_PS, strict=True):
        fraction_E = np.bincount(exit_S, minlength=test.num_exits) / len(exit_S)
        accuracy = float(test.correct_ES[exit_S, index_S].mean())
        said_ms = float(fraction_E @ np.asarray(costs['cost_ms']))
        rows.append(
            TradeoffRow.of(
                MEASURED, f'{number + 1} of {len(points.policies)}', float(fraction_E @ np.asarray(costs['cost_gflops'])), mean_ms,
                accuracy, len(exit_S), exit_fractions=tuple(fraction_E.tolist()), thresholds=policy.thresholds,
            )
        )  # fmt: skip
        lines.append(f'budget {number + 1}: {mean_ms:.3f} ms measured, {said_ms:.3f} ms by the exits ({mean_ms / said_ms:.2f})')
    return rows, lines


@dataclass(frozen=True)
class TradeoffReport:
    """What was measured.

    Attributes:
        rows: The points.
        caption: Where they come from, for a picture.
        text: What was found, for people.
    """

    rows: tuple[TradeoffRow, ...]
    caption: str
    text: str


def measure_tradeoff(
    model: nn.Module,
    loader: Any,
    held_out: HeldOutLogits,
    test: HeldOutLogits,
    *,
    backend: str = 'onnxruntime',
    score: str = 'confidence',
    num_budgets: int = 33,
    num_crosses: int = 4,
    num_cross_samples: int = 5000,
    batch_sizes: Sequence[int] = (1, 2, 4, 8, 16, 32),
    num_threads: int | None = None,
    rounds: int = 25,
    static: nn.Module | None = None,
    progress: Progress = _silent,
) -> TradeoffReport:
    """Measure the exits on this machine, and solve and judge policies.

    Args:
        model: Classifier or recognizer with its weights loaded.
        loader: Loader of the test samples, in the order of ``test``.
        held_out: Logits that policies are solved on.
        test: Logits that they are judged on.
        backend: Where times are taken.
        score: How sure an exit is.
        num_budgets: Points of a curve.
        num_crosses: Policies that are run and timed sample by sample.
        num_cross_samples: Test samples for that, evenly spaced; fewer where they would take more than a GiB.
        batch_sizes: Batch sizes among which the crossover is looked for; the curve is for batch size 1.
        num_threads: Threads; default PyTorch's.
        rounds: Rounds in which all calls take turns.
        static: A trained classifier on the network's backbone-only baseline.
        progress: Goes through items and shows how far it is.

    Returns:
        The points, and what was found, for people.

    Raises:
        UserError: If logits, network and backbone-only baseline do not go together.
    """
    network, form = network_with_exits(model), test.form
    if held_out.form[:3] != form[:3]:
        raise UserError(f'held-out samples {held_out.form[:3]} and test samples {form[:3]} differ in height, width or views')
    if held_out.form != form:
        raise UserError(
            f'views were averaged as {held_out.form.average_views!r} for held-out samples and as {form.average_views!r} for test samples; '
            'pass logits of both that one model gave'
        )
    cost_gflops = form.cost_gflops(network)
    solved, judged = (HeldOutScores.from_logits(logits.logits_ESK, logits.labels_S, score) for logits in (held_out, test))
    by_gflops = tradeoff_points(solved, judged, cost_gflops, None, num_budgets)
    chosen = by_gflops.nearly_full(solved.full_accuracy)
    mix = [row for row in by_gflops.rows if row.series == DYNAMIC][chosen]
    accuracy = None
    if static is not None:
        _check_same_trunk(static, network)
        accuracy = trunk_accuracy(static, loader, progress)
    with num_torch_threads(num_threads):
        report = measure_speed(
            network, [backend], sorted({1, *batch_sizes}), (form.height, form.width), exit_fractions=mix.exit_fractions, rounds=rounds
        )
        single = {row['name']: row['ms'] * form.views for row in report['rows'] if row['batch_size'] == 1}
        cost_ms = tuple(np.maximum.accumulate([single[f'exit {k + 1}'] for k in range(judged.num_exits)]).tolist())
        points = tradeoff_points(solved, judged, cost_gflops, cost_ms, num_budgets)
        rows = list(points.rows)
        if accuracy is not None:
            gflops = report['gmacs'][STATIC] * form.views
            rows.append(TradeoffRow.of(STATIC, STATIC, gflops, single[STATIC], accuracy, judged.num_samples))
        lines: list[str] = []
        if num_crosses:
            held = CROSS_BYTES // (12 * form.height * form.width * form.views * network.num_frames)
            count = min(num_cross_samples, judged.num_samples, max(1, held))
            index_S = np.unique(np.linspace(0, judged.num_samples - 1, count).round().astype(int))
            costs = dict(backend=backend, cost_ms=cost_ms, cost_gflops=cost_gflops)
            more, lines = _measured_rows(model, loader, points, points.spread(num_crosses), index_S, judged, **costs)
            rows += more
    caption = _caption(mix, cost_gflops, report, backend, len(index_S) if num_crosses else 0)
    return TradeoffReport(tuple(rows), caption, '\n'.join([*_exit_lines(rows), *lines, caption]))


def _check_same_trunk(static: nn.Module, network: DynPerceiver) -> None:
    backbone = static.backbone
    assert isinstance(backbone, nn.Module)
    mine, given = (sorted(tuple(p.shape) for p in one.parameters()) for one in (static_trunk_of(network), backbone))
    if mine != given:
        raise UserError(
            f"the backbone-only baseline's {len(given)} parameters have other shapes than the {len(mine)} of the network's feature branch; "
            'pass config and checkpoint of the same CNN'
        )


def _exit_lines(rows: Sequence[TradeoffRow]) -> list[str]:
    return [
        f'{row.label}: {row.gflops:.4g} GFLOPs, {row.ms:.3f} ms, {100 * row.accuracy:.2f} % ({100 * row.low:.2f} to {100 * row.high:.2f})'
        for row in rows
        if row.series in (EXIT, STATIC)
    ]


def _caption(mix: TradeoffRow, cost_gflops: Sequence[float], report: dict[str, Any], backend: str, num_crossed: int) -> str:
    phrases = ';\n'.join(report['crossovers'][backend])
    crosses = f' Crosses: {num_crossed} of the test samples.' if num_crossed else ''
    fractions = ' / '.join(f'{100 * fraction:.0f}' for fraction in mix.exit_fractions)
    return '\n'.join(
        [
            f'Milliseconds: {backend}, batch size 1, {report["machine"]}. Bars and band: 95 % (Wilson).{crosses} The curve ends where more '
            'budget buys nothing on the held-out samples.',
            f'The policy within half a point of the full network on held-out samples: {100 * mix.gflops / cost_gflops[-1]:.0f} % of its '
            f'GFLOPs, {fractions} % of the samples at exits 1-{len(mix.exit_fractions)}, {100 * mix.accuracy:.1f} % right.',
            f'Crossover: {phrases}.',
        ]
    )
