"""Which network to deploy: policies of a network with exits against networks without, at equal accuracy, from what was measured.

Nothing is measured in here, see :mod:`~dynperceiver.benchmark.race`. Choices are made on the calibration samples; what they are worth is
judged on other samples, which they never saw.

Shape suffixes: R rounds, E exits, S samples, P policies, C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dynperceiver_runtime import UserError
from dynperceiver_runtime.policy.exit_policy import ExitPolicy, PolicyRecord
from dynperceiver_runtime.policy.exit_rule import first_exit

from ..calibration.budget import tradeoff_curve
from ..calibration.held_out_scores import HeldOutScores

__all__ = [
    'POLICY',
    'SMALLER',
    'STATIC',
    'Candidate',
    'Comparison',
    'Setting',
    'Verdict',
    'choose',
    'compare',
    'policy_candidates',
    'qualifying',
    'regret_of',
]

POLICY, STATIC, SMALLER = 'policy', 'without exits', 'smaller input'
MIN_SAVING = 0.02  # of the time: what early exits have to save before a network is deployed that has more parts
NUM_DRAWS = 2000
ROUNDING = 1e-9
NUM_FOLDS = 4
MIN_FOLD = 10  # samples, below which folds tell less than the whole


@dataclass(frozen=True)
class Setting:
    """Where networks race.

    Attributes:
        engine: What runs them.
        num_threads: Threads that compute.
        batch_size: Samples per batch.
    """

    engine: str
    num_threads: int
    batch_size: int

    def text(self) -> str:
        """For people."""
        return f'{self.engine}, {self.num_threads} thread{"s" if self.num_threads > 1 else ""}, batch size {self.batch_size}'


@dataclass(frozen=True, eq=False)
class Candidate:
    """What can be deployed in a setting.

    Attributes:
        name: Name for people.
        kind: :data:`POLICY`, :data:`STATIC` or :data:`SMALLER`.
        exit_ms_RE: Milliseconds per sample that leaves at each exit, round by round, shape (R, E); all candidates of a setting have the
            same rounds. A network without exits has one.
        exit_fractions: Fraction of the calibration samples that leave at each exit.
        calibration_right_S: Whether each calibration sample is answered rightly, bool; of a policy, where others were solved on.
        exit_S: Exits of the samples that judge, from 0, shape (S,).
        right_S: Whether they are answered rightly, bool, shape (S,).
        scale: Time of batches that narrow, over what the exits' times say of their samples.
        policy: The policy.
        budget_ms: What it was solved for.
    """

    name: str
    kind: str
    exit_ms_RE: np.ndarray
    exit_fractions: tuple[float, ...]
    calibration_right_S: np.ndarray
    exit_S: np.ndarray
    right_S: np.ndarray
    scale: float = 1.0
    policy: ExitPolicy | None = None
    budget_ms: float | None = None

    def rounds_ms(self, exit_fractions: Sequence[float] | np.ndarray | None = None) -> np.ndarray:
        """Milliseconds per sample in each round, where samples leave in such fractions; default those of the calibration samples."""
        fraction_E = np.asarray(self.exit_fractions if exit_fractions is None else exit_fractions)
        return self.scale * (self.exit_ms_RE @ fraction_E)

    @property
    def ms(self) -> float:
        """Milliseconds per sample, as choices are made by: the median over the rounds, for the calibration samples."""
        return float(np.median(self.rounds_ms()))

    @property
    def calibration_accuracy(self) -> float:
        """Fraction of the calibration samples that are answered rightly."""
        return float(self.calibration_right_S.mean())

    @property
    def judged_fractions(self) -> tuple[float, ...]:
        """Fraction of the samples that judge that leave at each exit."""
        return tuple((np.bincount(self.exit_S, minlength=self.exit_ms_RE.shape[1]) / len(self.exit_S)).tolist())

    @property
    def judged_ms(self) -> float:
        """Milliseconds per sample for the samples that judge."""
        return float(np.median(self.rounds_ms(self.judged_fractions)))

    @property
    def accuracy(self) -> float:
        """Fraction of the samples that judge that are answered rightly."""
        return float(self.right_S.mean())

    @property
    def has_exits(self) -> bool:
        """Whether samples may leave early."""
        return self.kind == POLICY


@dataclass(frozen=True)
class Comparison:
    """One candidate beside another, on the samples that judge, with 95 % intervals.

    Attributes:
        ratio: Time over the other's.
        ratio_interval: Its interval, over rounds and samples.
        gain: Accuracy minus the other's, as a fraction.
        gain_interval: Its interval: a paired bootstrap over the samples.
        num_samples: Samples.
    """

    ratio: float
    ratio_interval: tuple[float, float]
    gain: float
    gain_interval: tuple[float, float]
    num_samples: int


def compare(candidate: Candidate, other: Candidate, seed: int = 0, num_draws: int = NUM_DRAWS) -> Comparison:
    """Compare two candidates of one setting.

    The samples are drawn with replacement, the same for both; and so are the rounds, in which both took turns.

    Args:
        candidate: One.
        other: What it is compared with.
        seed: Of the draws.
        num_draws: Draws.
    """
    generator = np.random.default_rng(seed)
    num_samples, num_rounds = len(candidate.right_S), len(candidate.exit_ms_RE)
    gain_S = candidate.right_S.astype(np.int64) - other.right_S
    drawn_gains, drawn_ratios = np.empty(num_draws), np.empty(num_draws)
    for draw in range(num_draws):
        sample_S = generator.integers(0, num_samples, num_samples)
        round_R = generator.integers(0, num_rounds, num_rounds)
        drawn_gains[draw] = gain_S[sample_S].mean()
        mine_R, theirs_R = (
            one.scale * (one.exit_ms_RE[round_R] @ (np.bincount(one.exit_S[sample_S], minlength=one.exit_ms_RE.shape[1]) / num_samples))
            for one in (candidate, other)
        )
        drawn_ratios[draw] = np.median(mine_R / theirs_R)
    ratio_R = candidate.rounds_ms(candidate.judged_fractions) / other.rounds_ms(other.judged_fractions)
    return Comparison(float(np.median(ratio_R)), _interval(drawn_ratios), float(gain_S.mean()), _interval(drawn_gains), num_samples)


def _interval(draws: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(draws, (2.5, 97.5)).tolist()
    return float(low), float(high)


def qualifying(candidates: Sequence[Candidate], max_accuracy_drop: float) -> list[int]:
    """Numbers of those that are accurate enough on the calibration samples: at most ``max_accuracy_drop`` below the most accurate one.

    The best of many is so partly by luck. So what candidates are compared with answers each quarter of the samples as the one does that is
    most accurate on the others. A difference within one standard error (of the paired difference) is none to choose by, and nobody is left
    out for it.
    """
    right_CS = np.stack([candidate.calibration_right_S for candidate in candidates])
    best_S = right_CS[right_CS.mean(1).argmax()].copy()
    for quarter_S in np.array_split(np.random.default_rng(0).permutation(len(best_S)), NUM_FOLDS):
        rest_S = np.setdiff1d(np.arange(len(best_S)), quarter_S)
        if len(rest_S):
            best_S[quarter_S] = right_CS[right_CS[:, rest_S].mean(1).argmax()][quarter_S]
    able = []
    for number, right_S in enumerate(right_CS):
        lack_S = best_S.astype(np.int64) - right_S
        within = lack_S.mean() <= max(max_accuracy_drop, lack_S.std() / np.sqrt(len(lack_S))) + ROUNDING
        if within or number == right_CS.mean(1).argmax():
            able.append(number)
    return able


def choose(candidates: Sequence[Candidate], max_accuracy_drop: float = 0.005) -> int:
    """Number of the fastest candidate among those that are accurate enough, see :func:`qualifying`.

    A policy that does not save at least :data:`MIN_SAVING` of the time is no reason to deploy more than the network alone.

    Args:
        candidates: Those of one setting.
        max_accuracy_drop: A fraction: 0.005 is half a point of a percent; or one standard error, where the samples are so few that it is
            more.

    Raises:
        UserError: If the drop is no fraction.
        ValueError: If there is no candidate.
    """
    if not candidates:
        raise UserError('there is nothing to choose among; pass one or more candidates')
    if not 0 <= max_accuracy_drop < 1:
        raise UserError(f'max_accuracy_drop={max_accuracy_drop}: it is a fraction of the samples in [0, 1); 0.005 is half a point')
    able = qualifying(candidates, max_accuracy_drop)
    fastest = min(able, key=lambda number: candidates[number].ms)
    plain = [number for number in able if not candidates[number].has_exits]
    if candidates[fastest].has_exits and plain:
        best = min(plain, key=lambda number: candidates[number].ms)
        if candidates[fastest].ms > (1 - MIN_SAVING) * candidates[best].ms:
            return best
    return fastest


def regret_of(candidates: Sequence[Candidate], chosen: int, max_accuracy_drop: float = 0.005) -> tuple[float, int]:
    """How much longer a choice takes than the best one that could have been made, with hindsight.

    The best one is the fastest on the samples that judge, among all that are as accurate there as they have to be: not more than
    ``max_accuracy_drop`` below the most accurate one, or as accurate as the choice itself, if that is less.

    Args:
        candidates: Those of one setting.
        chosen: Number of the choice.
        max_accuracy_drop: See :func:`choose`.

    Returns:
        Time over the best one's, minus 1; and the number of that one.
    """
    accuracies = [candidate.accuracy for candidate in candidates]
    least = min(accuracies[chosen], max(accuracies) - max_accuracy_drop) - ROUNDING
    able = [number for number, accuracy in enumerate(accuracies) if accuracy >= least]
    best = min(able, key=lambda number: candidates[number].judged_ms)
    return candidates[chosen].judged_ms / candidates[best].judged_ms - 1, best


@dataclass(frozen=True, eq=False)
class Verdict:
    """What to deploy in a setting.

    Attributes:
        setting: The setting.
        candidates: All that raced.
        chosen: Number of the choice.
        rival: Number of what it is compared with: for a policy the fastest network without exits that is accurate enough, or where none
            is, the most accurate one; for a network without exits the fastest policy, likewise. ``None`` where there is none.
        rival_qualifies: Whether the rival is accurate enough.
        comparison: The choice beside the rival, on the samples that judge.
        regret: See :func:`regret_of`.
        best: The best choice with hindsight.
        max_accuracy_drop: See :func:`choose`.
    """

    setting: Setting
    candidates: tuple[Candidate, ...]
    chosen: int
    rival: int | None
    rival_qualifies: bool
    comparison: Comparison | None
    regret: float
    best: int
    max_accuracy_drop: float

    @classmethod
    def of(cls, setting: Setting, candidates: Sequence[Candidate], max_accuracy_drop: float = 0.005, seed: int = 0) -> Verdict:
        """Choose among candidates, and judge the choice.

        Raises:
            UserError: If the drop is no fraction.
        """
        chosen = choose(candidates, max_accuracy_drop)
        able = set(qualifying(candidates, max_accuracy_drop))
        others = [number for number, one in enumerate(candidates) if one.has_exits != candidates[chosen].has_exits]
        fit = [number for number in others if number in able]
        rival = min(fit, key=lambda number: candidates[number].ms) if fit else None
        if not fit and others:
            rival = max(others, key=lambda number: candidates[number].calibration_accuracy)
        comparison = None if rival is None else compare(candidates[chosen], candidates[rival], seed)
        regret, best = regret_of(candidates, chosen, max_accuracy_drop)
        return cls(setting, tuple(candidates), chosen, rival, bool(fit), comparison, regret, best, max_accuracy_drop)

    @property
    def choice(self) -> Candidate:
        """The choice."""
        return self.candidates[self.chosen]

    def policy(self, checkpoint: str, calibration_set: str, num_samples: int, machine: str) -> ExitPolicy | None:
        """The policy that was chosen, with a record of what it is expected to do; ``None`` where a network without exits was.

        Args:
            checkpoint: Fingerprint of the network's weights.
            calibration_set: Fingerprint of the calibration samples.
            num_samples: How many these are.
            machine: What the times hold for.
        """
        choice = self.choice
        if choice.policy is None:
            return None
        cost_ms = tuple(np.maximum.accumulate(np.median(choice.exit_ms_RE, axis=0)).tolist())
        expected = dict(accuracy=choice.calibration_accuracy, exit_fractions=choice.exit_fractions, mean_ms=choice.ms)
        where, solved_for = f'{machine}, {self.setting.text()}', dict(budget_ms=choice.budget_ms)
        record = PolicyRecord(checkpoint, calibration_set, num_samples, solved_for, None, cost_ms, where, expected)
        return replace(choice.policy, record=record)

    def figures(self) -> dict[str, Any]:
        """All figures, for a file."""
        able = set(qualifying(self.candidates, self.max_accuracy_drop))
        rows = []
        for number, one in enumerate(self.candidates):
            row: dict[str, Any] = dict(name=one.name, kind=one.kind, qualifies=number in able, calibration_ms=one.ms, ms=one.judged_ms)
            row |= dict(calibration_accuracy=one.calibration_accuracy, accuracy=one.accuracy, scale=one.scale)
            row |= dict(calibration_fractions=list(one.exit_fractions), exit_fractions=list(one.judged_fractions))
            row |= dict(exit_ms=np.median(one.exit_ms_RE, axis=0).tolist(), budget_ms=one.budget_ms)
            rows.append(row | dict(thresholds=None if one.policy is None else list(one.policy.thresholds)))
        setting = dict(engine=self.setting.engine, num_threads=self.setting.num_threads, batch_size=self.setting.batch_size)
        found: dict[str, Any] = dict(**setting, chosen=self.chosen, rival=self.rival, rival_qualifies=self.rival_qualifies)
        if self.comparison is not None:
            found |= dict(ratio=self.comparison.ratio, ratio_interval=list(self.comparison.ratio_interval))
            found |= dict(accuracy_gain=self.comparison.gain, accuracy_gain_interval=list(self.comparison.gain_interval))
        return found | dict(num_judged=len(self.choice.right_S), regret=self.regret, best=self.best, candidates=rows)


def _right(policy: ExitPolicy, samples: HeldOutScores) -> np.ndarray:
    """Whether samples are answered rightly under a policy."""
    exit_S = first_exit(samples.decision_scores, policy.decision_thresholds)
    right_S: np.ndarray = samples.correct_ES[exit_S, np.arange(samples.num_samples)]
    return right_S


def policy_candidates(
    calibration: HeldOutScores, judged: HeldOutScores, exit_ms_RE: np.ndarray, num_budgets: int = 33, seed: int = 0
) -> list[Candidate]:
    """Policies of a network for evenly spaced budgets of milliseconds, each only once.

    A policy's accuracy on the samples that it was solved on is too good to choose by. So each quarter of the calibration samples is
    answered by policies for the same budgets that were solved on the others. The policies themselves are solved on all of them.

    Args:
        calibration: Samples that policies are solved on.
        judged: Samples that judge.
        exit_ms_RE: See :class:`Candidate`.
        num_budgets: Budgets.
        seed: Of the quarters.
    """
    costs = np.maximum.accumulate(np.median(exit_ms_RE, axis=0))
    points = tradeoff_curve(calibration, costs, num_budgets)
    right_PS = np.stack([_right(point.policy, calibration) for point in points])
    folds = np.array_split(np.random.default_rng(seed).permutation(calibration.num_samples), NUM_FOLDS)
    if len(folds[-1]) >= MIN_FOLD:
        for number, answering_S in enumerate(folds):
            solving = calibration.select(np.concatenate([*folds[:number], *folds[number + 1 :]]))
            answering = calibration.select(answering_S)
            right_PS[:, answering_S] = [_right(point.policy, answering) for point in tradeoff_curve(solving, costs, num_budgets)]
    found: dict[tuple[float, ...], Candidate] = {}
    for number, (point, right_S) in enumerate(zip(points, right_PS, strict=True), 1):
        exit_S = first_exit(judged.decision_scores, point.policy.decision_thresholds)
        candidate = Candidate(
            f'policy {number} of {num_budgets}', POLICY, exit_ms_RE, point.evaluation.exit_fractions, right_S, exit_S,
            _right(point.policy, judged), policy=point.policy, budget_ms=point.budget,
        )  # fmt: skip
        found.setdefault(tuple(point.policy.decision_thresholds), candidate)
    return list(found.values())
