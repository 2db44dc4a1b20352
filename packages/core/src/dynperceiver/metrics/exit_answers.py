"""What every exit answered to the samples of a data set, and which of them show best what early exits do.

Shape suffixes: S samples, E exits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dynperceiver_runtime import ExitPolicy, UserError

from .collection import ExitScoresMetric, check_scores

__all__ = ['AnswerCollector', 'ExitAnswers']


@dataclass(frozen=True)
class ExitAnswers:
    """Answers to a data set.

    Attributes:
        index_S: Numbers of the samples in the data set.
        label_S: Their labels.
        answer_SE: Class that each exit answers.
        confidence_SE: Its score, in [0, 1].
    """

    index_S: np.ndarray
    label_S: np.ndarray
    answer_SE: np.ndarray
    confidence_SE: np.ndarray

    @property
    def right_SE(self) -> np.ndarray:
        """Whether each exit is right."""
        return np.asarray(self.answer_SE == self.label_S[:, None])

    def easy(self) -> np.ndarray:
        """Rows of the samples that exit 1 gets right, the most confident first."""
        rows = np.flatnonzero(self.right_SE[:, 0])
        return rows[np.argsort(-self.confidence_SE[rows, 0], kind='stable')]

    def hard(self) -> np.ndarray:
        """Rows of the samples that the last exit alone gets right, the most confident first."""
        rows = np.flatnonzero(self.right_SE[:, -1] & ~self.right_SE[:, :-1].any(1))
        return rows[np.argsort(-self.confidence_SE[rows, -1], kind='stable')]

    def gaining(self) -> np.ndarray:
        """Rows of the samples that the last exit gets right, by what its confidence gains on that of exit 1, the largest gain first."""
        rows = np.flatnonzero(self.right_SE[:, -1])
        return rows[np.argsort(self.confidence_SE[rows, 0] - self.confidence_SE[rows, -1], kind='stable')]

    def leaving_S(self, threshold: float) -> np.ndarray:
        """Number (1..E) of the exit at which each sample leaves under a policy with this threshold at every exit."""
        policy = ExitPolicy((threshold,) * (self.confidence_SE.shape[1] - 1))
        return policy.replay_scores(self.confidence_SE.T) + 1


class AnswerCollector(ExitScoresMetric):
    """Keeps what the exits answer, and nothing else of their scores; a data set may be large."""

    default_prefix = 'answers'
    answers: ExitAnswers | None = None

    def keep(self, sample: Mapping[str, Any], scores_EK: np.ndarray, label: int) -> None:
        """Add a sample to ``results``."""
        check_scores(scores_EK[None], np.array([label]), 'an answer')
        index = int(sample.get('sample_idx', len(self.results)))
        self.results.append((index, label, scores_EK.argmax(1), scores_EK.max(1)))

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Join the samples to ``answers``; there are no metrics."""
        if not results:
            raise UserError('there are no samples to show; the data set is empty, check its annotation file')
        self.answers = ExitAnswers(*(np.stack(column) for column in zip(*results, strict=True)))
        return {}
