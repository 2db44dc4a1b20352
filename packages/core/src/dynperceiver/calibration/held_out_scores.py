"""What policies are solved and judged on: scores and right answers of held-out samples at every exit.

Shape suffixes: E exits, S samples, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynperceiver_runtime import UserError
from dynperceiver_runtime.policy.exit_policy import ExitPolicy, fingerprint_of_arrays
from dynperceiver_runtime.policy.exit_rule import first_exit, reaches
from dynperceiver_runtime.policy.scores import check_score, log_odds, to_probability
from dynperceiver_runtime.policy.thresholds import NEVER, decision_thresholds, log_odds_between, log_odds_of_scores

__all__ = [
    'Evaluation',
    'HeldOutScores',
    'check_costs',
    'check_fractions',
    'check_logits_and_labels',
    'evaluate',
    'evaluate_exits',
    'random_exit_baseline',
]

FRACTION_TOLERANCE = 1e-3  # of the sum of exit fractions
AGREEMENT = 1e-6  # of scores with their log-odds: rounding to float32


@dataclass(frozen=True, eq=False)
class HeldOutScores:
    """Scores and right answers of held-out samples; see :meth:`from_logits`.

    Attributes:
        score_ES: How sure each exit is, in [0, 1], shape (exits, samples); what people read.
        correct_ES: Whether its answer is right, bool, the same shape.
        labels: Fingerprint of the labels.
        score: Name of the score.
        temperature: What the logits were divided by, per exit.
        log_odds_ES: Log-odds of the scores, float64, the same shape; policies are solved and judged on them. ``None`` takes those of
            ``score_ES``, which are the same for all samples whose scores are rounded to the same number.

    Raises:
        ValueError: If the shapes do not fit, there are less than two exits or no samples, or a score is no number from 0 to 1.
    """

    score_ES: np.ndarray
    correct_ES: np.ndarray
    labels: str = ''
    score: str = 'confidence'
    temperature: tuple[float, ...] | float = 1.0
    log_odds_ES: np.ndarray | None = None

    def __post_init__(self) -> None:
        score_ES, correct_ES = np.asarray(self.score_ES), np.asarray(self.correct_ES)
        if score_ES.dtype not in (np.float32, np.float64):
            score_ES = score_ES.astype(np.float64)
        if score_ES.ndim != 2 or correct_ES.shape != score_ES.shape or correct_ES.dtype != np.bool_:
            raise ValueError(
                f'scores of shape {score_ES.shape} and {correct_ES.dtype} answers of shape {correct_ES.shape} do not belong together; pass '
                'score_ES and the booleans correct_ES, both of shape (exits, samples)'
            )
        if score_ES.shape[0] < 2 or score_ES.shape[1] == 0:
            raise ValueError(
                f'{score_ES.shape[0]} exits and {score_ES.shape[1]} held-out samples; pass 2 or more exits and 1 or more samples'
            )
        wrong_ES = ~((score_ES >= 0) & (score_ES <= 1))
        if wrong_ES.any():
            exit_index, sample = np.argwhere(wrong_ES)[0]
            raise ValueError(
                f'score {score_ES[exit_index, sample]} of sample {sample} at exit {exit_index + 1}; scores are numbers from 0 to 1: pass '
                'those that score_of of a policy gives, or make them from logits with HeldOutScores.from_logits'
            )
        log_odds_ES = log_odds_of_scores(score_ES) if self.log_odds_ES is None else np.asarray(self.log_odds_ES, np.float64)
        if log_odds_ES.shape != score_ES.shape or not np.isfinite(log_odds_ES).all():
            raise ValueError(
                f'log_odds_ES of shape {log_odds_ES.shape} for scores of shape {score_ES.shape}: pass as many finite numbers, or None'
            )
        if np.abs(to_probability(log_odds_ES) - score_ES).max() > AGREEMENT:
            raise ValueError('log_odds_ES are not those of score_ES; pass log_odds_ES=None where only the scores are known')
        policy = ExitPolicy((0.0,) * (len(score_ES) - 1), check_score(self.score), self.temperature)
        object.__setattr__(self, 'score_ES', score_ES)
        object.__setattr__(self, 'correct_ES', correct_ES)
        object.__setattr__(self, 'temperature', policy.temperatures)
        object.__setattr__(self, 'log_odds_ES', log_odds_ES)

    @property
    def num_exits(self) -> int:
        """Number of exits, the last included."""
        return int(self.score_ES.shape[0])

    @property
    def num_samples(self) -> int:
        """Number of held-out samples."""
        return int(self.score_ES.shape[1])

    @property
    def full_accuracy(self) -> float:
        """Accuracy of the full network, in [0, 1]."""
        return float(self.correct_ES[-1].mean())

    def select(self, index_S: np.ndarray) -> HeldOutScores:
        """Some of the samples.

        Args:
            index_S: Their numbers, or a boolean mask.
        """
        log_odds_ES = self.decision_scores[:, index_S]
        return HeldOutScores(self.score_ES[:, index_S], self.correct_ES[:, index_S], self.labels, self.score, self.temperature, log_odds_ES)

    @property
    def decision_scores(self) -> np.ndarray:
        """What policies compare with their thresholds: the log-odds, float64, shape (exits, samples)."""
        assert self.log_odds_ES is not None
        return self.log_odds_ES

    def policy(self, thresholds: Sequence[float]) -> ExitPolicy:
        """The policy with such thresholds in the form of scores, one per exit but the last, for these scores."""
        return ExitPolicy(tuple(thresholds), self.score, self.temperature)

    def exact_policy(self, log_odds: Sequence[float] | np.ndarray) -> ExitPolicy:
        """The policy that decides by exactly these log-odds, one per exit but the last; see :meth:`solved_policy` for those of samples."""
        log_odds_J = np.asarray(log_odds, np.float64)
        threshold_J = np.where(np.isposinf(log_odds_J), NEVER, to_probability(log_odds_J))
        return ExitPolicy(tuple(threshold_J.tolist()), self.score, self.temperature, log_odds=tuple(log_odds_J.tolist()))

    def solved_policy(self, log_odds: Sequence[float] | np.ndarray) -> ExitPolicy:
        """The policy under which the same samples leave as reach these log-odds.

        Its thresholds are the scores of the samples that only just leave. The log-odds that decide lie a little lower, but above those of
        the sample that only just stays: in another batch, or another engine, they are rounded differently.

        Args:
            log_odds: Log-odds that samples reach, one per exit but the last; ``-inf`` where all leave, ``inf`` where nobody does.
        """
        thresholds, decisive = [], []
        waiting_S = np.ones(self.num_samples, bool)
        for score_S, log_odds_S, threshold in zip(self.score_ES[:-1], self.decision_scores[:-1], log_odds, strict=True):
            leaves_S = reaches(log_odds_S, threshold)
            if threshold == -np.inf or not leaves_S.any():
                thresholds.append(0.0 if threshold == -np.inf else NEVER)
                decisive.append(-np.inf if threshold == -np.inf else np.inf)
            else:
                last = int(np.where(leaves_S, log_odds_S, np.inf).argmin())
                staying_S = log_odds_S[waiting_S & ~leaves_S]
                thresholds.append(float(score_S[last]))
                decisive.append(log_odds_between(float(log_odds_S[last]), float(staying_S.max(initial=-np.inf))))
            waiting_S &= ~leaves_S
        return ExitPolicy(tuple(thresholds), self.score, self.temperature, log_odds=tuple(decisive))

    @classmethod
    def from_logits(
        cls,
        logits_ESK: np.ndarray | Sequence[np.ndarray],
        labels_S: np.ndarray,
        score: str = 'confidence',
        temperature: float | Sequence[float] = 1.0,
    ) -> HeldOutScores:
        """Scores and right answers from logits of the full network.

        Args:
            logits_ESK: Logits, shape (exits, samples, classes), or a sequence of one array per exit.
            labels_S: Class numbers, shape (samples,).
            score: See :class:`~dynperceiver_runtime.policy.exit_policy.ExitPolicy`.
            temperature: See there.

        Raises:
            ValueError: If the shapes do not fit, there are no samples, a label is no class number, or a logit is not finite.
        """
        logits, labels_S = check_logits_and_labels(logits_ESK, labels_S)
        temperatures = ExitPolicy((0.0,) * (len(logits) - 1), score, temperature).temperatures  # type: ignore[arg-type]
        log_odds_ES = np.stack([log_odds(logits_SK, score, temperatures[k], k) for k, logits_SK in enumerate(logits)])
        correct_ES = np.stack([logits_SK.argmax(1) == labels_S for logits_SK in logits])
        score_ES = to_probability(log_odds_ES).astype(np.float32)
        return cls(score_ES, correct_ES, fingerprint_of_arrays([('labels', labels_S)]), score, temperatures, log_odds_ES)


def check_logits_and_labels(logits_ESK: np.ndarray | Sequence[np.ndarray], labels_S: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """The logits per exit, and the labels as int64.

    Raises:
        UserError: If there are less than two exits or no samples, shapes do not fit, or a label is no class number.
    """
    logits, labels_S = [np.asarray(logits_SK) for logits_SK in logits_ESK], np.asarray(labels_S)
    if len(logits) < 2 or any(logits_SK.ndim != 2 or logits_SK.shape != logits[0].shape for logits_SK in logits):
        raise UserError(
            f'logits of the shapes {", ".join(str(logits_SK.shape) for logits_SK in logits)} do not belong together; pass 2 or more exits, '
            'each of shape (samples, classes)'
        )
    num_samples, num_classes = logits[0].shape
    if num_samples == 0 or num_classes == 0:
        raise UserError(f'{num_samples} held-out samples of {num_classes} classes; pass 1 or more samples, of 1 or more classes')
    if labels_S.shape != (num_samples,) or labels_S.dtype.kind not in 'iu':
        raise UserError(
            f'{labels_S.dtype} labels of shape {labels_S.shape} do not go with {num_samples} samples; pass one whole number per sample'
        )
    wrong_S = (labels_S < 0) | (labels_S >= num_classes)
    if wrong_S.any():
        first = int(wrong_S.argmax())
        raise UserError(
            f'label {labels_S[first]} of sample {first}: class numbers run from 0 to {num_classes - 1} ({int(wrong_S.sum())} of '
            f'{num_samples} labels are outside); pass the labels of this data set; where they count from 1, subtract 1'
        )
    return logits, labels_S.astype(np.int64)


def check_costs(costs: Sequence[float] | np.ndarray, num_exits: int | None = None, name: str = 'costs') -> tuple[float, ...]:
    """Cumulative costs per exit, checked.

    Args:
        costs: What a sample costs that leaves at the exit, per exit, in any unit.
        num_exits: As many there must be, if known.
        name: Name for messages.

    Raises:
        ValueError: If there are less than two or another number than exits, one is not positive and finite, or they fall.
    """
    cost_E = np.asarray(costs, np.float64)
    if cost_E.ndim != 1 or len(cost_E) < 2 or (num_exits is not None and len(cost_E) != num_exits):
        rule = '2 or more' if num_exits is None else f'{num_exits}'
        raise UserError(f'{name}={costs!r}: pass {rule} numbers, the cost of a sample that leaves at the exit, per exit')
    if not (np.isfinite(cost_E) & (cost_E > 0)).all():
        raise UserError(f'{name}={tuple(cost_E.tolist())}: costs are finite numbers above 0')
    if (np.diff(cost_E) < 0).any():
        raise UserError(
            f'{name}={tuple(cost_E.tolist())} fall at exit {int((np.diff(cost_E) < 0).argmax()) + 2}; pass cumulative costs: what a sample '
            'costs in all that leaves at the exit'
        )
    return tuple(cost_E.tolist())


def check_fractions(fractions: Sequence[float] | np.ndarray, num_exits: int) -> np.ndarray:
    """Exit fractions as float32, checked.

    Raises:
        UserError: If there are not as many as exits, one is negative, or their sum is not 1 (within 1e-3).
    """
    fraction_E = np.asarray(fractions, np.float32)
    if fraction_E.shape != (num_exits,) or not np.isfinite(fraction_E).all() or (fraction_E < 0).any():
        raise UserError(
            f'exit_fractions={fractions!r}: pass {num_exits} numbers of 0 or more, the fraction of the samples to leave at each exit'
        )
    total = float(fraction_E.sum(dtype=np.float64))
    if abs(total - 1) > FRACTION_TOLERANCE:
        raise UserError(f'exit_fractions={fractions!r} sum up to {total:.6g}; fractions sum up to 1: divide them by their sum')
    return fraction_E


@dataclass(frozen=True)
class Evaluation:
    """What a policy does on held-out samples.

    Attributes:
        accuracy: Fraction of right answers, in [0, 1].
        mean_cost: Mean cost per sample, in the costs' unit.
        exit_fractions: Fraction of the samples that leave at each exit.
    """

    accuracy: float
    mean_cost: float
    exit_fractions: tuple[float, ...]


def evaluate(
    policy_or_thresholds: ExitPolicy | Sequence[float] | np.ndarray, held_out: HeldOutScores, costs: Sequence[float] | np.ndarray
) -> Evaluation:
    """Accuracy and mean cost of a policy.

    Args:
        policy_or_thresholds: A policy, or thresholds per exit, of which the last may be missing and is not looked at.
        held_out: The samples.
        costs: Cumulative cost per exit, in any unit.

    Raises:
        ValueError: If the numbers of exits differ, or the policy takes another score, or another temperature, than the samples have.
    """
    cost_E = check_costs(costs, held_out.num_exits)
    last = held_out.num_exits - 1
    if isinstance(policy_or_thresholds, ExitPolicy):
        policy = policy_or_thresholds
        if (policy.score, policy.temperatures) != (held_out.score, held_out.temperature):
            raise UserError(
                f'the policy decides by {policy.score} at temperature {policy.temperatures}, and the samples have {held_out.score} at '
                f'{held_out.temperature}; make the scores with HeldOutScores.from_logits(..., score, temperature) of the policy'
            )
        exit_S = first_exit(held_out.decision_scores if policy.scale == 'log_odds' else held_out.score_ES, policy.decision_thresholds)
    else:
        threshold_E = np.asarray(policy_or_thresholds, np.float64)
        if threshold_E.shape not in ((last,), (last + 1,)) or np.isnan(threshold_E).any():
            raise UserError(f'thresholds={policy_or_thresholds!r} do not go with {last + 1} exits; pass {last} or {last + 1} numbers')
        exit_S = first_exit(held_out.decision_scores, decision_thresholds(threshold_E))
    return evaluate_exits(exit_S, held_out, cost_E)


def evaluate_exits(exit_S: np.ndarray, held_out: HeldOutScores, costs: Sequence[float] | np.ndarray) -> Evaluation:
    """Accuracy and mean cost where samples leave at these exits.

    Args:
        exit_S: Index of the exit, from 0, per sample.
        held_out: The samples.
        costs: Cumulative cost per exit, in any unit.
    """
    fraction_E = np.bincount(exit_S, minlength=held_out.num_exits) / held_out.num_samples
    accuracy = float(held_out.correct_ES[exit_S, np.arange(held_out.num_samples)].mean())
    return Evaluation(accuracy, float(fraction_E @ np.asarray(costs)), tuple(fraction_E.tolist()))


def random_exit_baseline(
    held_out: HeldOutScores, costs: Sequence[float] | np.ndarray, fractions: Sequence[float] | np.ndarray
) -> Evaluation:
    """Expected accuracy and cost where samples leave at random; what a policy gains over it, its scores are worth.

    Args:
        held_out: The samples.
        costs: Cumulative cost per exit, in any unit.
        fractions: Fraction of the samples to leave at each exit; they sum up to 1.

    Raises:
        ValueError: If the costs or fractions do not fit.
    """
    cost_E = np.asarray(check_costs(costs, held_out.num_exits))
    fraction_E = check_fractions(fractions, held_out.num_exits).astype(np.float64)
    fraction_E /= fraction_E.sum()
    accuracy = float(fraction_E @ held_out.correct_ES.mean(1))
    return Evaluation(accuracy, float(fraction_E @ cost_E), tuple(fraction_E.tolist()))
