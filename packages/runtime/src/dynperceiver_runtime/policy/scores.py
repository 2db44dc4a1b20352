"""How sure an exit is of its answer: scores of logits, in [0, 1], higher means surer.

Shape suffixes: S samples, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

__all__ = ['SCORES', 'TEMPERATURE_LIMITS', 'check_score', 'check_temperature', 'confidence', 'entropy', 'margin', 'score_samples']

CHUNK_NUMBERS = 2**18  # logits that are worked on at once: 1 MB, so that they stay in the processor's cache

TEMPERATURE_LIMITS = (1e-3, 1e3)
"""Smallest and largest temperature; beyond them, scores of different samples are hardly different any more."""

ScoreFunction: TypeAlias = Callable[[np.ndarray, float], np.ndarray]


def _exponentials(logits_SK: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """``log p - log p_max`` and its exponential, both of the logits' shape and of no one else."""
    with np.errstate(over='ignore'):  # a difference of two finite logits may exceed float32; its exponential is 0 all the same
        shifted_SK = logits_SK - logits_SK.max(-1, keepdims=True)
        if temperature != 1:
            shifted_SK /= np.float32(temperature)
    return shifted_SK, np.exp(shifted_SK)


def confidence(logits_SK: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Largest softmax probability.

    Args:
        logits_SK: Logits, float32, shape (samples, classes).
        temperature: The logits are divided by it.

    Returns:
        Scores in [1 / classes, 1], float32, shape (samples,).
    """
    _, powers_SK = _exponentials(logits_SK, temperature)
    return np.asarray(1 / powers_SK.sum(-1))


def margin(logits_SK: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Difference of the two largest softmax probabilities; 1 where there is one class; see :func:`confidence`."""
    shifted_SK, powers_SK = _exponentials(logits_SK, temperature)
    total_S = powers_SK.sum(-1)
    powers_SK[np.arange(len(powers_SK)), shifted_SK.argmax(-1)] = 0
    return np.asarray((1 - powers_SK.max(-1)) / total_S)


def entropy(logits_SK: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """``1 - H / log(classes)`` with the softmax's entropy H: 1 for a sure answer, 0 for a uniform one; see :func:`confidence`."""
    num_samples, num_classes = logits_SK.shape
    if num_classes == 1:
        return np.ones(num_samples, np.float32)
    shifted_SK, powers_SK = _exponentials(logits_SK, temperature)
    total_S = powers_SK.sum(-1)
    np.maximum(shifted_SK, np.finfo(np.float32).min, out=shifted_SK)
    np.multiply(shifted_SK, powers_SK, out=shifted_SK)
    entropy_S = np.log(total_S) - shifted_SK.sum(-1) / total_S
    return np.asarray(np.clip(1 - entropy_S / np.float32(np.log(num_classes)), 0, 1))


SCORES: MappingProxyType[str, ScoreFunction] = MappingProxyType({'confidence': confidence, 'margin': margin, 'entropy': entropy})
"""Score functions by name; they take finite float32 logits of shape (samples, classes) and a temperature."""


def check_score(score: object) -> str:
    """The name of a score, if there is one of that name.

    Raises:
        ValueError: If not.
    """
    if not isinstance(score, str) or score not in SCORES:
        raise ValueError(f'score={score!r} is unknown; choose one of {", ".join(SCORES)}')
    return score


def check_temperature(temperature: float, exit_index: int = 0) -> float:
    """The temperature of an exit, if it is within :data:`TEMPERATURE_LIMITS`.

    Raises:
        ValueError: If not.
    """
    low, high = TEMPERATURE_LIMITS
    if not low <= temperature <= high:
        raise ValueError(
            f'temperature {temperature} of exit {exit_index + 1}: temperatures are numbers from {low:g} to {high:g}; 1.0 changes nothing, '
            'and tools/calibrate.py --fit-temperature finds those that fit'
        )
    return temperature


def score_samples(
    logits_SK: np.ndarray, score: str = 'confidence', temperature: float = 1.0, exit_index: int = 0, sample_S: np.ndarray | None = None
) -> np.ndarray:
    """Scores of many samples at one exit; a sample's score does not depend on those it is computed with.

    Args:
        logits_SK: Logits of any floating type, shape (samples, classes).
        score: Name in :data:`SCORES`.
        temperature: The logits are divided by it; within :data:`TEMPERATURE_LIMITS`.
        exit_index: Number of the exit, from 0, for messages.
        sample_S: Numbers of the samples, for messages; default 0, 1, 2...

    Returns:
        Scores, float32, shape (samples,).

    Raises:
        ValueError: If the shape is another, the score is unknown, the temperature out of range, or a logit or score not finite.
    """
    logits_SK = np.asarray(logits_SK)
    if logits_SK.ndim != 2 or logits_SK.shape[1] == 0:
        raise ValueError(
            f'exit {exit_index + 1}: logits of shape {logits_SK.shape} have no score; pass an array of shape (samples, classes) with one '
            'or more classes'
        )
    function, num_samples = SCORES[check_score(score)], len(logits_SK)
    check_temperature(temperature, exit_index)
    score_S = np.empty(num_samples, np.float32)
    bad_S = np.zeros(num_samples, bool)
    num_rows = max(1, CHUNK_NUMBERS // logits_SK.shape[1])
    for start in range(0, num_samples, num_rows):
        rows = slice(start, start + num_rows)
        with np.errstate(over='ignore'):
            chunk_SK = np.ascontiguousarray(logits_SK[rows], dtype=np.float32)
        with np.errstate(over='ignore', invalid='ignore'):
            sum_is_finite = bool(np.isfinite(chunk_SK.sum()))
        if not sum_is_finite and not np.isfinite(chunk_SK).all():
            bad_S[rows] = ~np.isfinite(chunk_SK).all(1)
            continue
        score_S[rows] = function(chunk_SK, temperature)
        bad_S[rows] = ~np.isfinite(score_S[rows])
    if bad_S.any():
        raise _not_finite(bad_S, exit_index, sample_S)
    return score_S


def _not_finite(bad_S: np.ndarray, exit_index: int, sample_S: np.ndarray | None) -> ValueError:
    first = int(bad_S.argmax())
    number = first if sample_S is None else int(sample_S[first])
    return ValueError(
        f'exit {exit_index + 1}: the logits of {int(bad_S.sum())} of {len(bad_S)} samples are not finite (the first is sample '
        f'{number}), so nothing can be decided for them. Rule: logits are finite numbers. Remedy: '
        'look for NaN or infinity in the input of these samples; '
        'where it is finite, the weights have diverged: take an earlier checkpoint, or run in float32'
    )
