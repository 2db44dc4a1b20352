"""How far the confidence of every exit can be trusted: early exiting stands and falls with it.

Shape suffixes: S samples, E exits, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dynperceiver_runtime import UserError

from ..registry import METRICS
from .collection import ExitFiguresMetric, check_scores, exit_table

__all__ = ['ExitCalibration', 'exit_calibrations', 'expected_calibration_error']

SUM_TOLERANCE = 1e-2  # of a softmax in half precision


def expected_calibration_error(confidence_S: np.ndarray, right_S: np.ndarray, num_bins: int = 15) -> float:
    """Expected calibration error (Guo et al., ICML 2017, Eq. 3): mean over samples of |accuracy - mean confidence| of their bin.

    Args:
        confidence_S: Score of the answer, in [0, 1].
        right_S: Whether the answer is right.
        num_bins: Bins (lo, hi] of equal width on [0, 1]; a confidence of 0 belongs to the first.
    """
    upper_edges = np.linspace(0, 1, num_bins + 1)[1:]
    bin_S = np.searchsorted(upper_edges[:-1], confidence_S, side='left')
    excess = np.bincount(bin_S, weights=right_S - confidence_S.astype(np.float64), minlength=num_bins)
    return float(np.abs(excess).sum() / len(confidence_S))


def _log_softmax(logits_SEK: np.ndarray) -> np.ndarray:
    shifted = logits_SEK - logits_SEK.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def exit_calibrations(scores_SEK: np.ndarray, labels_S: np.ndarray, num_bins: int = 15, scores: str = 'prob') -> list[dict[str, float]]:
    """Calibration per exit; the confidence of a sample is its largest probability.

    Args:
        scores_SEK: Probabilities or logits, shape (samples, exits, classes).
        labels_S: Class numbers, shape (samples,).
        num_bins: Bins of :func:`expected_calibration_error`.
        scores: ``'prob'``: rows are probabilities, such as a softmax, or a mean of several; ``'logit'``: a softmax is taken first.

    Returns:
        Per exit a dict with ``ece`` and ``confidence`` (mean), in [0, 1]; ``nll``, mean negative natural logarithm of the label's
        probability (taken as at least float32's smallest normal number, so at most 87.3, where ``scores='prob'``); and ``brier``, mean
        squared distance of the probabilities from the label's one-hot vector, in [0, 2].

    Raises:
        UserError: If there is no sample, a score is not finite, a label is no class number, or ``scores='prob'`` and rows are no
            probabilities.
    """
    check_scores(scores_SEK, labels_S, 'a calibration')
    return _calibrations(_confidence_figures(scores_SEK, labels_S, scores), num_bins)


def _confidence_figures(scores_SEK: np.ndarray, labels_S: np.ndarray, scores: str) -> dict[str, np.ndarray]:
    """What the calibration of samples depends on, each of shape (samples, exits).

    Returns:
        A dict with ``confidence``, ``right``, ``log_likelihood`` of the label, and ``brier``; where ``scores='prob'`` also ``lowest``,
        the smallest score, and ``total``, their sum.
    """
    scores_SEK = scores_SEK.astype(np.float64)
    label_S11 = labels_S[:, None, None]
    if scores == 'logit':
        logs_SEK = _log_softmax(scores_SEK)
        probs_SEK = np.exp(logs_SEK)
        log_SE1 = np.take_along_axis(logs_SEK, label_S11, axis=2)
        checks = {}
    else:
        probs_SEK = scores_SEK
        log_SE1 = np.log(np.maximum(np.take_along_axis(probs_SEK, label_S11, axis=2), np.finfo(np.float32).tiny))
        checks = {'lowest': probs_SEK.min(2), 'total': probs_SEK.sum(2)}
    return {
        'confidence': probs_SEK.max(2),
        'right': probs_SEK.argmax(2) == labels_S[:, None],
        'log_likelihood': log_SE1[..., 0],
        'brier': (probs_SEK**2).sum(2) - 2 * np.take_along_axis(probs_SEK, label_S11, axis=2)[..., 0] + 1,
        **checks,
    }


def _check_probabilities(lowest_SE: np.ndarray, highest_SE: np.ndarray, total_SE: np.ndarray) -> None:
    bad_SE = (lowest_SE < 0) | (np.abs(total_SE - 1) > SUM_TOLERANCE)
    if bad_SE.any():
        first, number = np.argwhere(bad_SE)[0]
        raise UserError(
            f'exit_scores are no probabilities in {int(bad_SE.any(1).sum())} of {len(bad_SE)} samples: at sample {first}, exit '
            f'{number + 1} they run from {lowest_SE[first, number]:.4g} to {highest_SE[first, number]:.4g} and sum up to '
            f"{total_SE[first, number]:.4g}; probabilities are at least 0 and sum up to 1; where the model's exit_scores are logits, "
            "set scores='logit'"
        )


def _calibrations(figures: Mapping[str, np.ndarray], num_bins: int) -> list[dict[str, float]]:
    if 'total' in figures:
        _check_probabilities(figures['lowest'], figures['confidence'], figures['total'])
    names = ('confidence', 'right', 'log_likelihood', 'brier')
    return [
        dict(
            ece=expected_calibration_error(confidence_S, right_S, num_bins),
            confidence=float(confidence_S.mean()),
            nll=float(-log_S.mean()),
            brier=float(brier_S.mean()),
        )
        for confidence_S, right_S, log_S, brier_S in zip(*(figures[name].T for name in names), strict=True)
    ]


@METRICS.register_module()
class ExitCalibration(ExitFiguresMetric):
    """Calibration of every exit: ``calibration/exit1_ece``, ``.._confidence``, ``.._nll``, ``.._brier``; see :func:`exit_calibrations`.

    Args:
        num_bins: Bins of the expected calibration error.
        scores: What the data samples' ``exit_scores`` are, ``'prob'`` or ``'logit'``.
        collect_device: See MMEngine's ``BaseMetric``.
        prefix: Prefix of the names; default ``calibration``.

    Raises:
        UserError: If ``num_bins`` is less than 1, or ``scores`` neither of the two.
    """

    default_prefix = 'calibration'
    quantity = 'a calibration'

    def __init__(self, num_bins: int = 15, scores: str = 'prob', collect_device: str = 'cpu', prefix: str | None = None) -> None:
        if num_bins < 1:
            raise UserError(f'num_bins={num_bins}: confidences are sorted into 1 or more bins; 15 is usual')
        if scores not in ('prob', 'logit'):
            raise UserError(f"scores={scores!r}: choose 'prob' (exit_scores are probabilities) or 'logit' (a softmax is taken first)")
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.num_bins = num_bins
        self.scores = scores

    def reduce(self, scores_SEK: np.ndarray, labels_S: np.ndarray) -> dict[str, np.ndarray]:
        """Confidence, whether right, likelihood and Brier score."""
        return _confidence_figures(scores_SEK, labels_S, self.scores)

    def measure(self, figures: Mapping[str, np.ndarray], labels_S: np.ndarray) -> tuple[dict[str, float], str]:
        """Calibration over all samples, and a table with a row per exit."""
        rows = _calibrations(figures, self.num_bins)
        metrics = {f'exit{i}_{name}': value for i, row in enumerate(rows, 1) for name, value in row.items()}
        table = exit_table(rows, {'nll': '.4f', 'brier': '.4f'})
        return metrics, f'calibration per exit on {len(labels_S)} samples (ECE over {self.num_bins} bins)\n{table}'
