"""How sure an exit is of its answer: scores of logits, in [0, 1], higher means surer; and their log-odds, by which samples leave.

In float32 a softmax probability above 0.99999997 is 1. Its log-odds log(s / (1 - s)), computed from the logits in float64, go on growing
with the distance of the logits; so samples whose scores look alike are told apart.

Shape suffixes: S samples, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from ..errors import UserError

__all__ = [
    'LARGEST_LOG_ODDS',
    'SCORES',
    'TEMPERATURE_LIMITS',
    'check_score',
    'check_temperature',
    'confidence',
    'entropy',
    'log_odds',
    'margin',
    'score_samples',
    'to_log_odds',
    'to_probability',
]

CHUNK_NUMBERS = 2**18  # logits that are worked on at once: 1 MB, so that they stay in the processor's cache
CHUNK_DOUBLES = 2**15  # the same for float64, with what is computed from them
LARGEST_LOGIT = 1e290  # differences of larger ones, divided by a small temperature, would not be finite in float64
NEARLY_UNIFORM = 0.01  # of log(classes) - H in nats, below which it loses digits as a difference

LARGEST_LOG_ODDS = 1e300
"""Log-odds of a score of 1, and minus those of a score of 0: a finite number beyond all others."""

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
        raise UserError(f'score={score!r} is unknown; choose one of {", ".join(SCORES)}')
    return score


def check_temperature(temperature: float, exit_index: int = 0) -> float:
    """The temperature of an exit, if it is within :data:`TEMPERATURE_LIMITS`.

    Raises:
        ValueError: If not.
    """
    low, high = TEMPERATURE_LIMITS
    if not low <= temperature <= high:
        raise UserError(
            f'temperature {temperature} of exit {exit_index + 1}: temperatures are numbers from {low:g} to {high:g}; 1.0 changes nothing, '
            'and tools/calibrate.py --fit-temperature finds those that fit'
        )
    return temperature


def to_log_odds(probability: np.ndarray | float) -> np.ndarray:
    """Log-odds log(p / (1 - p)) of probabilities, float64; at 0 and 1 minus and plus :data:`LARGEST_LOG_ODDS`."""
    probability = np.asarray(probability, np.float64)
    with np.errstate(divide='ignore'):
        return _bounded(np.log(probability) - np.log1p(-probability))


def to_probability(log_odds: np.ndarray | float) -> np.ndarray:
    """Probabilities with such log-odds, float64; the inverse of :func:`to_log_odds`."""
    log_odds = np.asarray(log_odds, np.float64)
    small = np.exp(-np.abs(log_odds))
    return np.asarray(np.where(log_odds < 0, small, 1.0) / (1 + small))


def _bounded(log_odds: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(log_odds, -LARGEST_LOG_ODDS, LARGEST_LOG_ODDS))


def _apart(logits_SK: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How far the largest logit is above the second; all logits less the second, the largest set to -inf; and where that one is.

    Works in ``logits_SK``, which is float64.
    """
    row_S, first_S = np.arange(len(logits_SK)), logits_SK.argmax(1)
    largest_S = logits_SK[row_S, first_S]
    logits_SK[row_S, first_S] = -np.inf
    second_S = logits_SK.max(1)
    logits_SK -= second_S[:, None]
    lead_S = largest_S - second_S
    if temperature != 1:
        logits_SK /= temperature
        lead_S /= temperature
    return lead_S, logits_SK, first_S


def _confidence_log_odds(logits_SK: np.ndarray, temperature: float) -> np.ndarray:
    """log p1 - log(sum of the others)."""
    lead_S, below_SK, _ = _apart(logits_SK, temperature)
    return np.asarray(lead_S - np.log(np.exp(below_SK, out=below_SK).sum(1)))


def _margin_log_odds(logits_SK: np.ndarray, temperature: float) -> np.ndarray:
    """log(p1 - p2) - log(2 p2 + sum of the rest); p1 = p2 exp(lead), and p2 is on both sides."""
    lead_S, below_SK, _ = _apart(logits_SK, temperature)
    return np.asarray(lead_S + np.log(-np.expm1(-lead_S)) - np.log1p(np.exp(below_SK, out=below_SK).sum(1)))


def _entropy_log_odds(logits_SK: np.ndarray, temperature: float) -> np.ndarray:
    """log(log(classes) - H) - log(H). All terms of H are positive; exp(-lead), which may underflow, is taken out of them."""
    lead_S, below_SK, first_S = _apart(logits_SK, temperature)
    power_SK = np.exp(below_SK)
    below_SK[np.arange(len(below_SK)), first_S] = lead_S
    others_S, spread_S = power_SK.sum(1), -np.multiply(power_SK, below_SK, out=power_SK).sum(1)
    odds_S = others_S * np.exp(-lead_S)  # of another class than the first
    first_term_S = others_S * np.divide(np.log1p(odds_S), odds_S, out=np.ones_like(odds_S), where=odds_S > 0)
    log_entropy_S = np.log(first_term_S + (lead_S * others_S + spread_S) / (1 + odds_S)) - lead_S
    missing_S = np.log(below_SK.shape[1]) - np.exp(log_entropy_S)
    flat_S = missing_S < NEARLY_UNIFORM
    if flat_S.any():
        missing_S[flat_S] = _missing_entropy(below_SK[flat_S])
    return np.asarray(np.log(missing_S) - log_entropy_S)


def _missing_entropy(logits_SK: np.ndarray) -> np.ndarray:
    """log(classes) - H where that is small: the difference of two numbers of the size of the logits' spread, not of log(classes)."""
    logits_SK -= logits_SK.mean(1, keepdims=True)
    power_SK = np.exp(logits_SK)
    mean_S = (power_SK * logits_SK).sum(1) / power_SK.sum(1)
    return np.asarray(np.maximum(mean_S - np.log1p(np.expm1(logits_SK).mean(1)), 0))


LOG_ODDS: MappingProxyType[str, ScoreFunction] = MappingProxyType(
    {'confidence': _confidence_log_odds, 'margin': _margin_log_odds, 'entropy': _entropy_log_odds}
)


def log_odds(
    logits_SK: np.ndarray, score: str = 'confidence', temperature: float = 1.0, exit_index: int = 0, sample_S: np.ndarray | None = None
) -> np.ndarray:
    """Log-odds of the scores of many samples at one exit, log(s / (1 - s)): what samples leave by.

    They are computed in float64 without cancellation, so that they neither end at 1 nor lose digits near it. A sample's log-odds do not
    depend on those it is computed with.

    Args:
        logits_SK: Logits of any floating type, shape (samples, classes).
        score: Name in :data:`SCORES`.
        temperature: The logits are divided by it; within :data:`TEMPERATURE_LIMITS`.
        exit_index: Index of the exit, from 0, for messages.
        sample_S: Numbers of the samples, for messages; default 0, 1, 2...

    Returns:
        Finite float64, shape (samples,), at most :data:`LARGEST_LOG_ODDS` either way: that of a single class, and of a margin of 0.

    Raises:
        ValueError: If the shape is another, the score is unknown, the temperature out of range, or a logit not finite.
    """
    function = LOG_ODDS[check_score(score)]

    def bounded(chunk_SK: np.ndarray, temperature: float) -> np.ndarray:
        if chunk_SK.shape[1] == 1:
            return np.full(len(chunk_SK), LARGEST_LOG_ODDS)
        with np.errstate(divide='ignore'):
            return _bounded(function(chunk_SK, temperature))

    return _by_chunks(bounded, np.float64, CHUNK_DOUBLES, logits_SK, temperature, exit_index, sample_S)


def score_samples(
    logits_SK: np.ndarray, score: str = 'confidence', temperature: float = 1.0, exit_index: int = 0, sample_S: np.ndarray | None = None
) -> np.ndarray:
    """Scores of many samples at one exit, computed in float32; a sample's score does not depend on those it is computed with.

    Args:
        logits_SK: See :func:`log_odds`.
        score: See there.
        temperature: See there.
        exit_index: See there.
        sample_S: See there.

    Returns:
        Scores in [0, 1], float32, shape (samples,).

    Raises:
        ValueError: If the shape is another, the score is unknown, the temperature out of range, or a logit or score not finite.
    """
    return _by_chunks(SCORES[check_score(score)], np.float32, CHUNK_NUMBERS, logits_SK, temperature, exit_index, sample_S)


def _by_chunks(
    function: ScoreFunction,
    dtype: type[np.floating[Any]],
    chunk_numbers: int,
    logits_SK: np.ndarray,
    temperature: float,
    exit_index: int,
    sample_S: np.ndarray | None,
) -> np.ndarray:
    """Apply a function to a few samples at a time, in the type that it computes in; it may overwrite them."""
    logits_SK = np.asarray(logits_SK)
    if logits_SK.ndim != 2 or logits_SK.shape[1] == 0:
        raise ValueError(
            f'exit {exit_index + 1}: logits of shape {logits_SK.shape} have no score; pass an array of shape (samples, classes) with one '
            'or more classes'
        )
    check_temperature(temperature, exit_index)
    num_samples, num_rows = len(logits_SK), max(1, chunk_numbers // logits_SK.shape[1])
    score_S, bad_S = np.empty(num_samples, dtype), np.zeros(num_samples, bool)
    for start in range(0, num_samples, num_rows):
        rows = slice(start, start + num_rows)
        with np.errstate(over='ignore'):
            chunk_SK = np.array(logits_SK[rows], dtype=dtype, order='C')
        with np.errstate(over='ignore', invalid='ignore'):
            sum_is_finite = bool(np.isfinite(chunk_SK.sum()))
        if not sum_is_finite and not np.isfinite(chunk_SK).all():
            bad_S[rows] = ~np.isfinite(chunk_SK).all(1)
            continue
        if dtype is np.float64 and logits_SK.dtype.itemsize > 4:
            np.clip(chunk_SK, -LARGEST_LOGIT, LARGEST_LOGIT, out=chunk_SK)
        score_S[rows] = function(chunk_SK, temperature)
        bad_S[rows] = ~np.isfinite(score_S[rows])
    if bad_S.any():
        raise _not_finite(bad_S, exit_index, sample_S)
    return score_S


def _not_finite(bad_S: np.ndarray, exit_index: int, sample_S: np.ndarray | None) -> UserError:
    first = int(bad_S.argmax())
    number = first if sample_S is None else int(sample_S[first])
    return UserError(
        f'exit {exit_index + 1}: the logits of {int(bad_S.sum())} of {len(bad_S)} samples are not finite (the first is sample {number}), '
        'so no exit can be chosen for them. Look for NaN or infinity in the input of these samples; where it is finite, the weights have '
        'diverged: take an earlier checkpoint, or run in float32'
    )
