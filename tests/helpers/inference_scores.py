"""Logits of imaginary networks and their golden thresholds, for tests of policies and their calibration."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dynperceiver.calibration.held_out_scores import HeldOutScores

GFLOPS = (0.46, 1.06, 1.23, 1.3)


class GoldenThresholds(NamedTuple):
    """Contents of tests/golden/threshold_solver.json."""

    score_ES: np.ndarray
    correct_ES: np.ndarray
    logits_ESK: np.ndarray
    labels_S: np.ndarray
    rows: list[dict[str, Any]]


def golden_thresholds() -> GoldenThresholds:
    """The golden file, and the samples that its note describes."""
    golden = json.loads((Path(__file__).parent.parent / 'golden' / 'threshold_solver.json').read_text())
    rng = np.random.Generator(np.random.PCG64(7))
    labels_S, difficulty_S = rng.integers(0, 10, 600), rng.random(600)
    logits_ESK = np.empty((4, 600, 10))
    for logits_SK, strength in zip(logits_ESK, (1.0, 2.0, 2.4, 3.0), strict=True):
        logits_SK[:] = rng.standard_normal((600, 10))
        logits_SK[np.arange(600), labels_S] += strength * (1.6 - difficulty_S) * 1.5
    score_ES = np.frombuffer(base64.b64decode(golden['scores_base64']), '<f4').reshape(4, 600)
    assert tuple(golden['gflops_per_exit']) == GFLOPS
    return GoldenThresholds(score_ES, logits_ESK.argmax(2) == labels_S, logits_ESK, labels_S, golden['rows'])


def network_logits(
    num_samples: int, num_classes: int = 10, seed: int = 0, sharpness: tuple[float, ...] = (1, 1, 1, 1)
) -> tuple[np.ndarray, np.ndarray]:
    """Logits (4, samples, classes) of exits that get better and mostly agree, and labels; an exit's logits are its ``sharpness`` times."""
    rng = np.random.default_rng(seed)
    labels_S = rng.integers(0, num_classes, num_samples)
    ease_S = 1.5 * (1.6 - 1.3 * rng.random(num_samples))
    shared_SK = rng.standard_normal((num_samples, num_classes))
    logits_ESK = np.empty((4, num_samples, num_classes), np.float32)
    for k, strength in enumerate((1.2, 1.9, 2.1, 2.4)):
        logits_SK = 0.85 * shared_SK + 0.53 * rng.standard_normal((num_samples, num_classes))
        logits_SK[np.arange(num_samples), labels_S] += strength * ease_S
        logits_ESK[k] = sharpness[k] * logits_SK
    return logits_ESK, labels_S


def network_scores(num_samples: int, seed: int = 0, sharpness: tuple[float, ...] = (1, 1, 1, 1)) -> HeldOutScores:
    """Scores of :func:`network_logits`."""
    return HeldOutScores.from_logits(*network_logits(num_samples, seed=seed, sharpness=sharpness))
