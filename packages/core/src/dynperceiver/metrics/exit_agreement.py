"""How alike the exits answer, and what each could add to the others.

Shape suffixes: S samples, E exits, K classes; two E: a matrix of pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np

from ..registry import METRICS
from .collection import ExitFiguresMetric, check_scores, matrix_table

__all__ = ['AgreementFractions', 'ExitAgreement', 'exit_agreements']


@dataclass(frozen=True)
class AgreementFractions:
    """Fractions of the samples, in [0, 1].

    Attributes:
        same_EE: On which exits i and j give the same answer; symmetric, with 1 on the diagonal.
        right_wrong_EE: On which exit i is right and exit j is wrong; 0 on the diagonal.
        oracle: On which some exit is right: the accuracy of a policy that always chose the best exit.
    """

    same_EE: np.ndarray
    right_wrong_EE: np.ndarray
    oracle: float


def exit_agreements(scores_SEK: np.ndarray, labels_S: np.ndarray) -> AgreementFractions:
    """Compare the answers of all pairs of exits; among equal scores the class with the smaller number is the answer.

    Args:
        scores_SEK: Scores or logits, shape (samples, exits, classes).
        labels_S: Class numbers, shape (samples,).

    Raises:
        UserError: If there is no sample, a score is not finite, or a label is no class number.
    """
    check_scores(scores_SEK, labels_S, 'an agreement')
    return _agreements(scores_SEK.argmax(2), labels_S)


def _agreements(answers_SE: np.ndarray, labels_S: np.ndarray) -> AgreementFractions:
    right_SE = answers_SE == labels_S[:, None]
    return AgreementFractions(
        same_EE=(answers_SE[:, :, None] == answers_SE[:, None, :]).mean(0),
        right_wrong_EE=(right_SE[:, :, None] & ~right_SE[:, None, :]).mean(0),
        oracle=float(right_SE.any(1).mean()),
    )


@METRICS.register_module()
class ExitAgreement(ExitFiguresMetric):
    """Fractions of samples on which exits agree, in [0, 1]; see :class:`AgreementFractions`.

    ``agreement/exit1_exit2`` .. for the same answer, ``agreement/exit1_right_exit2_wrong`` .. for both orders of each pair, and
    ``agreement/oracle``.

    Args:
        collect_device: See MMEngine's ``BaseMetric``.
        prefix: Prefix of the names; default ``agreement``.
    """

    default_prefix = 'agreement'
    quantity = 'an agreement'

    def reduce(self, scores_SEK: np.ndarray, labels_S: np.ndarray) -> dict[str, np.ndarray]:
        """Class that is answered."""
        return {'answer': scores_SEK.argmax(2)}

    def measure(self, figures: Mapping[str, np.ndarray], labels_S: np.ndarray) -> tuple[dict[str, float], str]:
        """Fractions over all samples, and their two matrices."""
        fractions = _agreements(figures['answer'], labels_S)
        exits = range(len(fractions.same_EE))
        metrics = {f'exit{i + 1}_exit{j + 1}': float(fractions.same_EE[i, j]) for i, j in combinations(exits, 2)}
        metrics |= {f'exit{i + 1}_right_exit{j + 1}_wrong': float(fractions.right_wrong_EE[i, j]) for i, j in permutations(exits, 2)}
        metrics['oracle'] = fractions.oracle
        tables = (
            f'same answer of two exits, fraction of {len(labels_S)} samples\n{matrix_table(fractions.same_EE)}\n'
            f'exit of the row right, exit of the column wrong\n{matrix_table(fractions.right_wrong_EE, diagonal=False)}\n'
            f'some exit right: {100 * fractions.oracle:.2f}%'
        )
        return metrics, tables
