"""Lean exits grafted onto a trained network, beside all that they compete with: what each saves at which accuracy, on photos.

  python benchmarks/lean_exits.py CONFIG CHECKPOINT --seeds 0 1 2 --out work_dirs/lean_exits

CONFIG and CHECKPOINT are a backbone-only baseline that is trained, such as configs/classification/efficientnet-lite0_caltech100.py. On the
same frozen network and the same cached maps it trains lean exits, and linear and two-layer probes at the same cuts. Policies are solved on
the calibration set and judged on the test set; times are measured on this machine, where the exits take turns with the network alone. Run
it while the machine does nothing else: about half an hour.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynperceiver.benchmark.speed import measure_speed
from dynperceiver.benchmark.timing import machine_description
from dynperceiver.calibration import HeldOutScores
from dynperceiver.calibration.budget import TradeoffPoint, tradeoff_curve
from dynperceiver.calibration.held_out_scores import evaluate, random_exit_baseline
from dynperceiver.grafting import exit_logits, train_on_maps
from dynperceiver.launch import image_size, read_config
from dynperceiver.launch.grafting import Graft, SplitViews, build_graft, cache_split, grafted_config, save_graft

LEAN, LINEAR, TWO_LAYER = 'lean exits', 'linear probes', 'two-layer probes'
FORMS: dict[str, dict[str, Any]] = {
    LEAN: {},
    LINEAR: dict(num_latents=1, latent_width=4, early_exits='probe'),
    TWO_LAYER: dict(num_latents=1, latent_width=4, early_exits='probe', probe_channels=256),
}
STATIC = 'backbone-only baseline'
NUM_BUDGETS, FINE_BUDGETS = 33, 257
DROPS = (0.0, 0.0025, 0.005)
BATCH_SIZES = (1, 8, 32)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of a backbone-only baseline')
    parser.add_argument('checkpoint', help='its checkpoint')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/lean_exits'), help='output folder (default: %(default)s)')
    parser.add_argument('--cuts', nargs='+', default=['stage2', 'stage3'], help='where the exits stand (default: stage2 stage3)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='seeds of the lean exits (default: 0 1 2)')
    parser.add_argument('--views', type=int, default=5, help='views of each photo (default: %(default)s)')
    parser.add_argument('--epochs', type=int, default=25, help='epochs on the cached maps (default: %(default)s)')
    mixup_help = 'how samples are mixed in training; 0: not (default: %(default)s)'
    parser.add_argument('--mixup-alpha', type=float, default=0.2, help=mixup_help)
    parser.add_argument('--num-latents', type=int, default=8, help='tokens of the latent code (default: %(default)s)')
    parser.add_argument('--latent-width', type=int, default=128, help='its channels (default: %(default)s)')
    parser.add_argument('--latent-depth', type=int, default=0, help='self-attention layers after each read (default: %(default)s)')
    lift_help = 'channels to which exits lift pixels; 0: none (default: %(default)s)'
    parser.add_argument('--lift-channels', type=int, default=256, help=lift_help)
    parser.add_argument('--max-tokens', type=int, default=25, help='tokens of a read (default: %(default)s)')
    parser.add_argument('--probe-seeds', type=int, nargs='*', default=[0], help='seeds of the probes (default: 0)')
    parser.add_argument('--threads', type=int, nargs='+', default=[2, 1], help='numbers of threads to take times with (default: 2 1)')
    return parser.parse_args()


def class_mean(right_S: np.ndarray, labels_S: np.ndarray) -> float:
    """Mean over the classes of the fraction of right answers."""
    return float(np.mean([right_S[labels_S == label].mean() for label in np.unique(labels_S)]))


class Photos:
    """Maps of the three splits under the frozen network.

    Args:
        graft: Any network with exits at the cuts.
        cfg: Config of the data.
        args: The command line.
    """

    def __init__(self, graft: Graft, cfg: Any, args: argparse.Namespace) -> None:
        folder = args.out / 'cache'
        self.train = SplitViews(cfg, graft.model)
        self.maps = cache_split(graft, self.train, args.views, folder)
        self.held_out, self.test = (
            cache_split(graft, SplitViews(cfg, graft.model, split), 1, folder).of_view(0) for split in ('calibration', 'test')
        )


def scores(network: Any, cache: Any) -> HeldOutScores:
    """Scores of all exits for the samples of a cache."""
    logits_ESK = [logits.numpy() for logits in exit_logits(network, cache)]
    return HeldOutScores.from_logits(logits_ESK, np.asarray(cache.arrays['labels']))


def exit_times(network: Any, size: tuple[int, int], threads: Sequence[int]) -> dict[str, Any]:
    """Milliseconds of the exits and of the network alone, by backend, batch size and number of threads."""
    times: dict[str, Any] = {}
    report: dict[str, Any] = {}
    for num_threads in threads:
        report = measure_speed(network, ['onnxruntime', 'torch'], BATCH_SIZES, size, rounds=30, num_threads=num_threads)
        for row in report['rows']:
            name = f'{row["backend"]}, batch {row["batch_size"]}, {num_threads} thread{"s" if num_threads > 1 else ""}'
            times.setdefault(name, {})[row['name']] = row['ms']
    return dict(ms=times, gmacs=report['gmacs'], machine=report['machine'])


def relative_costs(times: dict[str, Any], num_exits: int) -> dict[str, tuple[float, ...]]:
    """Costs of the exits over those of the network alone, by backend and batch size; and in GMACs."""
    tables = {**times['ms'], 'GMACs': times['gmacs']}
    found = {}
    for name, table in tables.items():
        costs = np.maximum.accumulate([table[f'exit {number}'] / table[STATIC] for number in range(1, num_exits + 1)])
        found[name] = tuple(float(cost) for cost in costs)
    return found


def policies(held_out: HeldOutScores, test: HeldOutScores, costs: Sequence[float]) -> dict[str, Any]:
    """The curve of a cost; and the cheapest policies within 0 and half a point of the network on the calibration set, judged on the test
    set."""

    def judged(point: TradeoffPoint) -> dict[str, Any]:
        found = evaluate(point.policy, test, costs)
        chance = random_exit_baseline(test, costs, found.exit_fractions)
        row = dict(held_out=point.evaluation.accuracy, accuracy=found.accuracy, cost=found.mean_cost, random=chance.accuracy)
        return row | dict(exit_fractions=found.exit_fractions, thresholds=point.policy.thresholds)

    result: dict[str, Any] = dict(curve=[judged(point) for point in tradeoff_curve(held_out, costs, NUM_BUDGETS)])
    fine = tradeoff_curve(held_out, costs, FINE_BUDGETS)
    for drop in DROPS:
        good = (point for point in fine if point.evaluation.accuracy >= held_out.full_accuracy - drop - 1e-9)
        result[f'drop {drop:g}'] = judged(next(good, fine[-1]))
    return result


def main() -> None:
    """Train, solve, measure, write."""
    args = parse_args()
    logging.disable(logging.WARNING)
    source = read_config(args.config)
    size = image_size(None, source)
    names = ('num_latents', 'latent_width', 'latent_depth', 'max_tokens', 'lift_channels')
    lean = {name: getattr(args, name) or (None if name == 'lift_channels' else 0) for name in names}
    photos: Photos | None = None
    trained = []
    for form, branch in FORMS.items():
        for seed in args.seeds if form == LEAN else args.probe_seeds:
            torch.manual_seed(seed)
            graft = build_graft(grafted_config(source, args.cuts, size, **(branch or lean)), source, args.checkpoint)
            photos = photos or Photos(graft, source, args)
            work_dir = args.out / f'{form.replace(" ", "_")}_{seed}'
            settings = dict(epochs=args.epochs, seed=seed, mixup_alpha=args.mixup_alpha)
            train_on_maps(graft.network, photos.maps, work_dir / 'training', **settings)
            save_graft(graft, work_dir, photos.train)
            held_out, test = scores(graft.network, photos.held_out), scores(graft.network, photos.test)
            trained.append((form, seed, graft.network, held_out, test))
            print(f'{form}, seed {seed}: right at exits {percent(test.correct_ES.mean(1))} %', flush=True)
    assert photos is not None
    labels_S = np.asarray(photos.test.arrays['labels'])
    result: dict[str, Any] = dict(machine=machine_description(), networks=[])
    for form, seed, network, held_out, test in trained:
        times = exit_times(network, size, args.threads)
        relative = relative_costs(times, network.num_exits)
        entry: dict[str, Any] = dict(form=form, seed=seed, times=times, relative=relative)
        entry['accuracies'] = [float(right_S.mean()) for right_S in test.correct_ES]
        entry['class_means'] = [class_mean(right_S, labels_S) for right_S in test.correct_ES]
        entry['held_out'] = [float(right_S.mean()) for right_S in held_out.correct_ES]
        entry['policies'] = {name: policies(held_out, test, costs) for name, costs in relative.items()}
        result['networks'].append(entry)
        (args.out / 'result.json').write_text(json.dumps(result, indent=1))
        print(summary(entry), flush=True)
    print(result['machine'])


def percent(fractions: Any) -> str:
    """Fractions for people."""
    return ' / '.join(f'{100 * fraction:.1f}' for fraction in fractions)


def summary(entry: dict[str, Any]) -> str:
    """A network in a few lines."""
    right = f'right at exits {percent(entry["accuracies"])} %, class means {percent(entry["class_means"])} %'
    lines = [f'{entry["form"]}, seed {entry["seed"]}: {right}']
    for name, costs in entry['relative'].items():
        cells = [f'{name:<33} exits {" / ".join(f"{cost:.2f}" for cost in costs)}']
        for drop in (f'drop {drop:g}' for drop in DROPS):
            row = entry['policies'][name][drop]
            points = 100 * (row['accuracy'] - entry['accuracies'][-1])
            cells.append(f'{drop}: {row["cost"]:.3f} ({points:+.2f} points)')
        lines.append('  ' + '; '.join(cells))
    return '\n'.join(lines)


if __name__ == '__main__':
    main()
