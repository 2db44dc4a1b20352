"""Pictures of what the exits achieve."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from dynperceiver_runtime import MissingFileError, UserError
from dynperceiver_runtime.files import reading

from .files import load_pyplot, save_figure

__all__ = ['plot_exit_tradeoff', 'read_exit_accuracies']

COLOURS = ('#1f6fb4', '#d1495b', '#2a9d5c', '#8e5ea2', '#c98a00')


def read_exit_accuracies(path: str | Path, metric: str = 'top1') -> list[float]:
    """Accuracy per exit from the JSON file that a test leaves in its work dir.

    Args:
        path: The file.
        metric: ``top1``, ``top5`` or ``mean_class``.

    Raises:
        MissingFileError: If the file is missing.
        UserError: If it is not the result of one test, or holds no such metric.
    """
    remedy = 'pass the one that tools/test.py writes in its work dir, WORK_DIR/TIME/TIME.json'
    if not Path(path).is_file():
        raise MissingFileError(f'result {path} is missing; {remedy}')
    with reading(path, 'result'):
        content = Path(path).read_bytes()
    try:
        values = json.loads(content)
    except ValueError as error:
        raise UserError(f'{path} is not the JSON file of one test ({error}); {remedy}') from error
    if not isinstance(values, dict):
        raise UserError(f'{path} is not the JSON file of one test (it holds a {type(values).__name__}); {remedy}')
    found = {name: re.fullmatch(rf'exit(\d+)_{re.escape(metric)}', name.rpartition('/')[2]) for name in values}
    names = sorted((int(match[1]), name) for name, match in found.items() if match)
    if not names:
        raise UserError(
            f'{path} has no {metric} per exit, only {", ".join(values) or "nothing"}; pass the JSON file that tools/test.py writes'
        )
    return [float(values[name]) for _, name in names]


def plot_exit_tradeoff(
    series: Mapping[str, Sequence[tuple[float, float]]],
    path: str | Path,
    chance: float | None = None,
    title: str = 'Accuracy of each exit against its cost',
    sample: str = 'sample',
) -> None:
    """Draw accuracy against GMACs, a labelled point per exit.

    Args:
        series: Name to (GMACs, accuracy in [0, 1]) per exit, in exit order.
        path: Picture to write; the ending says the format.
        chance: Accuracy of guessing, drawn as a dashed line.
        title: Title.
        sample: What a sample is called on the axis, for example ``clip``.
    """
    figure, axes = load_pyplot().subplots(figsize=(7, 4.6), layout='constrained')
    for (name, points), colour in zip(series.items(), COLOURS * len(series), strict=False):
        gmacs, accuracies = [x for x, _ in points], [100 * y for _, y in points]
        axes.plot(gmacs, accuracies, 'o-', color=colour, label=name, markersize=7, linewidth=1.8)
        for number, (x, y) in enumerate(zip(gmacs, accuracies, strict=True), 1):
            above = number % 2 == 0  # neighbours may be close: their labels stand on different sides
            axes.annotate(
                f'exit {number}\n{y:.1f} %',
                (x, y),
                xytext=(0, 9 if above else -12),
                textcoords='offset points',
                ha='center',
                va='bottom' if above else 'top',
                fontsize=8,
            )
    if chance is not None:
        axes.axhline(100 * chance, color='0.45', linestyle='--', linewidth=1)
        axes.annotate(f'chance {100 * chance:.1f} %', (0.01, 100 * chance), xycoords=('axes fraction', 'data'), xytext=(0, 3),
                      textcoords='offset points', fontsize=8, color='0.35')
    axes.set(xlabel=f'GMACs per {sample} (1 MAC = 1 FLOP)', ylabel='top-1 accuracy (%)', title=title)
    axes.set(ylim=(0, 114), yticks=range(0, 101, 20))
    axes.set_xlim(0, 1.08 * max(x for points in series.values() for x, _ in points))
    axes.grid(alpha=0.3)
    if len(series) > 1:
        axes.legend(loc='lower left')
    save_figure(figure, path)
