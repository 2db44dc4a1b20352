"""Seconds that scores, a trade-off curve and each goal of a calibration take, on random logits; no network is needed.

  python benchmarks/calibration.py                                    # 50,000 samples, 1,000 classes, 4 exits, 33 budgets
  python benchmarks/calibration.py --samples 5000 --classes 100
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from dynperceiver.calibration import HeldOutScores, calibrate, tradeoff_curve

GFLOPS = (0.46, 1.06, 1.23, 1.3)
STRENGTHS = (1.5, 2.0, 2.2, 2.5)  # how far the right class stands out, per exit


def random_logits(num_samples: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits of exits that get better, on samples of different difficulty, and the labels."""
    rng = np.random.default_rng(0)
    labels_S = rng.integers(0, num_classes, num_samples)
    ease_S = 4 * (1.6 - rng.random(num_samples, np.float32))
    logits_ESK = np.empty((len(STRENGTHS), num_samples, num_classes), np.float32)
    for logits_SK, strength in zip(logits_ESK, STRENGTHS, strict=True):
        rng.standard_normal(out=logits_SK, dtype=np.float32)
        logits_SK[np.arange(num_samples), labels_S] += strength * ease_S / 2
    return logits_ESK, labels_S


def timed(name: str, function: Callable[[], object]) -> None:
    """Print what one call takes."""
    start = time.process_time()
    function()
    print(f'{name:42s} {time.process_time() - start:7.2f} s', flush=True)


def main() -> None:
    """Parse the arguments and print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--samples', type=int, default=50_000)
    parser.add_argument('--classes', type=int, default=1000)
    parser.add_argument('--budgets', type=int, default=33)
    args = parser.parse_args()
    logits_ESK, labels_S = random_logits(args.samples, args.classes)

    def curve(score: str) -> object:
        return tradeoff_curve(HeldOutScores.from_logits(logits_ESK, labels_S, score), GFLOPS, args.budgets)

    timed('scores from logits (confidence)', lambda: HeldOutScores.from_logits(logits_ESK, labels_S))
    for score in ('confidence', 'margin', 'entropy'):
        timed(f'scores and {args.budgets} budgets ({score})', lambda score=score: curve(score))
    timed('calibrate, exit_fractions', lambda: calibrate(logits_ESK, labels_S, exit_fractions=(0.4, 0.3, 0.2, 0.1)))
    timed('calibrate, budget_gflops', lambda: calibrate(logits_ESK, labels_S, budget_gflops=0.8, cost_gflops=GFLOPS))
    timed('calibrate, max_accuracy_drop', lambda: calibrate(logits_ESK, labels_S, max_accuracy_drop=0.01, cost_gflops=GFLOPS))
    timed(
        "calibrate, budget_gflops, temperature='fit'",
        lambda: calibrate(logits_ESK, labels_S, budget_gflops=0.8, cost_gflops=GFLOPS, temperature='fit'),
    )


if __name__ == '__main__':
    main()
