"""The policy of early exiting: which exit's answer is taken, and how that is decided.

A sample leaves at the first exit whose score reaches that exit's threshold; the last exit takes all that are left. What is compared are
log-odds of scores and thresholds, see :mod:`~dynperceiver_runtime.policy.scores`.

Shape suffixes: E exits, S samples, K classes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import UserError
from .exit_rule import first_exit, reaches
from .policy_file import PolicyError, PolicyRecord, fingerprint_of_arrays, read_policy_file, write_policy_file
from .scores import SCORES, check_score, check_temperature, log_odds, score_samples, to_probability
from .thresholds import NEVER, TIE_TOLERANCE, decision_thresholds, largest_decision_thresholds, log_odds_of_scores

__all__ = ['NEVER', 'SCALES', 'SCORES', 'TIE_TOLERANCE', 'ExitPolicy', 'PolicyError', 'PolicyRecord', 'fingerprint_of_arrays']

SCALES = ('log_odds', 'probability')
"""What a policy compares: log-odds in float64, or float32 scores as files of version 1 do."""

REPLAY_SAMPLES = 4096  # replayed at once
NEARLY_ONE = 0.9999  # from here on four digits do not tell thresholds apart
AGREEMENT = 1e-9  # of log-odds with thresholds, relative: rounding of the conversion


def _floats(values: object, name: str, remedy: str) -> tuple[float, ...]:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise UserError(f'{name}={values!r} is no sequence of numbers; {remedy}')
    values = tuple(values)
    try:
        return tuple(float(value) for value in values)
    except OverflowError:
        raise UserError(f'{name} has a whole number of more than 308 digits, which no float holds; {remedy}') from None
    except (TypeError, ValueError):
        raise UserError(f'{name}={values} are not all numbers; {remedy}') from None


@dataclass(frozen=True)
class ExitPolicy:
    """When a sample leaves.

    Args:
        thresholds: Score from which on a sample leaves, per exit but the last; at 0 all leave, above 1 none.
        score: How sure an exit is: ``'confidence'`` (largest softmax probability), ``'margin'`` (difference of the two largest) or
            ``'entropy'`` (1 minus the softmax's entropy over its largest possible one); each runs from 0 to 1.
        temperature: What an exit's logits are divided by before the softmax: one number, or one per exit. Kept as one per exit.
        record: What the policy was made from, if known.
        log_odds: The thresholds that decide, per exit but the last, as log-odds; ``-inf`` where all leave, ``inf`` where nobody does. A
            calibrated policy has them, so that it tells samples apart whose scores are all 1.0 in float32. ``None`` takes those of
            ``thresholds``, a little lower, so that a sample whose float32 score is the threshold leaves with any engine and batch size; see
            :func:`~dynperceiver_runtime.policy.thresholds.decision_thresholds`.
        scale: What is compared, one of :data:`SCALES`. ``'probability'`` decides as files of version 1 do: by the float32 score, which
            may lie 0.000005 below the threshold.

    Raises:
        ValueError: If there is no threshold, or one is negative or not finite; the score is unknown; or a temperature is outside
            :data:`~dynperceiver_runtime.policy.scores.TEMPERATURE_LIMITS`, or there are not as many as exits; or log-odds and thresholds
            differ; or the record has costs for another number of exits.
    """

    thresholds: tuple[float, ...]
    score: str = 'confidence'
    temperature: tuple[float, ...] | float = 1.0
    record: PolicyRecord | None = field(default=None, hash=False)
    log_odds: tuple[float, ...] | None = None
    scale: str = 'log_odds'

    def __post_init__(self) -> None:
        thresholds = _floats(self.thresholds, 'thresholds', 'pass one per exit but the last, such as (0.7, 0.8, 0.9) for four exits')
        if not thresholds:
            raise UserError('thresholds=() is empty; pass one per exit but the last, one or more')
        for number, threshold in enumerate(thresholds, 1):
            if not math.isfinite(threshold) or threshold < 0:
                raise UserError(
                    f'threshold {threshold} of exit {number}: thresholds are finite numbers of 0 (all leave) or more; to let nobody leave, '
                    f'set {NEVER}'
                )
        temperature, num_exits = self.temperature, len(thresholds) + 1
        if isinstance(temperature, int | float | np.generic) or np.ndim(temperature) == 0:
            temperatures = _floats([temperature], 'temperature', 'pass one number, or one per exit') * num_exits
        else:
            temperatures = _floats(temperature, 'temperature', 'pass one number, or one per exit')
        if len(temperatures) != num_exits:
            raise UserError(
                f'{len(temperatures)} temperatures do not go with {num_exits} exits ({len(thresholds)} thresholds); pass one number, or '
                'one per exit, the last included'
            )
        for number, value in enumerate(temperatures, 1):
            check_temperature(value, number - 1)
        check_score(self.score)
        if self.record is not None:
            for name in ('cost_gflops', 'cost_ms'):
                costs = getattr(self.record, name)
                if costs is not None and len(costs) != num_exits:
                    raise UserError(f'the record has {len(costs)} {name} for {num_exits} exits; record one per exit, the last included')
        if self.scale not in SCALES:
            raise UserError(f'scale={self.scale!r} is unknown; choose one of {", ".join(SCALES)}')
        object.__setattr__(self, 'thresholds', thresholds)
        object.__setattr__(self, 'temperature', temperatures)
        if self.log_odds is not None:
            object.__setattr__(self, 'log_odds', self._checked_log_odds(self.log_odds))
        object.__setattr__(self, '_decision_thresholds', self._find_decision_thresholds())

    def _checked_log_odds(self, values: Sequence[float]) -> tuple[float, ...]:
        """Log-odds that belong to the thresholds."""
        what_to_do = 'pass log_odds=None to decide by the thresholds alone'
        if self.scale != 'log_odds':
            raise UserError(f'log_odds={values!r} do not go with scale={self.scale!r}; {what_to_do}')
        checked = _floats(values, 'log_odds', what_to_do)
        if len(checked) != len(self.thresholds):
            raise UserError(f'{len(checked)} log_odds do not go with {len(self.thresholds)} thresholds; {what_to_do}')
        value_J, low_J, high_J = np.array(checked), decision_thresholds(self.thresholds), largest_decision_thresholds(self.thresholds)
        with np.errstate(invalid='ignore'):
            inside_J = (value_J >= low_J - AGREEMENT * np.maximum(1, np.abs(low_J))) & (
                value_J <= high_J + AGREEMENT * np.maximum(1, np.abs(high_J))
            )
        wrong_J = ~(inside_J | (value_J == low_J))
        if wrong_J.any():
            first = int(wrong_J.argmax())
            raise UserError(
                f'log_odds {value_J[first]:.9g} of exit {first + 1} are not those of its threshold {self.thresholds[first]:.9g}, which are '
                f'{low_J[first]:.9g} to {high_J[first]:.9g}; {what_to_do}'
            )
        return checked

    def _find_decision_thresholds(self) -> tuple[float, ...]:
        if self.scale == 'probability':
            return tuple(math.inf if threshold > 1 else threshold - TIE_TOLERANCE for threshold in self.thresholds)
        return tuple(decision_thresholds(self.thresholds).tolist()) if self.log_odds is None else self.log_odds

    @property
    def decision_thresholds(self) -> tuple[float, ...]:
        """What :meth:`decision_scores` are compared with, per exit but the last."""
        found: tuple[float, ...] = self.__dict__['_decision_thresholds']
        return found

    @property
    def num_exits(self) -> int:
        """Number of exits, the last included."""
        return len(self.thresholds) + 1

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Temperature per exit."""
        return self.temperature if isinstance(self.temperature, tuple) else (self.temperature,) * self.num_exits

    def threshold_in_words(self, exit_index: int) -> str:
        """The threshold of an exit but the last, for people; close to 1 what is missing to 1, for example ``1-3e-09``."""
        threshold, decisive = self.thresholds[exit_index], self.decision_thresholds[exit_index]
        if threshold > 1:
            return 'never'
        if threshold <= NEARLY_ONE or self.log_odds is None:
            return f'{threshold:.4f}'
        return f'1-{float(to_probability(-decisive)):.0e}'

    def _check_exit(self, exit_index: int) -> None:
        if not 0 <= exit_index < self.num_exits:
            raise ValueError(f'exit_index={exit_index}: the policy has {self.num_exits} exits; pass 0 to {self.num_exits - 1}')

    def decision_scores(self, exit_index: int, logits_SK: np.ndarray, sample_S: np.ndarray | None = None) -> np.ndarray:
        """What decides whether samples leave at an exit: the log-odds of their scores; with the scale of version 1, the scores.

        Args:
            exit_index: Index of the exit, from 0.
            logits_SK: Its logits, shape (samples, classes).
            sample_S: Numbers of the samples for messages, where they are a part of a larger batch; default 0, 1, 2...

        Returns:
            Float64 (scale of version 1: float32), shape (samples,).

        Raises:
            ValueError: If there is no such exit, the shape is another, or a logit is not finite.
        """
        self._check_exit(exit_index)
        function = log_odds if self.scale == 'log_odds' else score_samples
        return function(logits_SK, self.score, self.temperatures[exit_index], exit_index, sample_S)

    def score_of(self, exit_index: int, logits_SK: np.ndarray, sample_S: np.ndarray | None = None) -> np.ndarray:
        """How sure an exit is of its answers, for people: see :meth:`decision_scores` for what decides.

        Args:
            exit_index: Index of the exit, from 0.
            logits_SK: Its logits, shape (samples, classes).
            sample_S: See :meth:`decision_scores`.

        Returns:
            Scores in [0, 1], float32, shape (samples,).

        Raises:
            ValueError: If there is no such exit, the shape is another, or a logit is not finite.
        """
        return self._as_scores(self.decision_scores(exit_index, logits_SK, sample_S))

    def _as_scores(self, decision_score_S: np.ndarray) -> np.ndarray:
        return to_probability(decision_score_S).astype(np.float32) if self.scale == 'log_odds' else decision_score_S

    def _from_scores(self, score_S: np.ndarray, exit_index: int) -> np.ndarray:
        """Decision scores of which only the scores are known."""
        score_S = np.asarray(score_S)
        for what, wrong_S in (('not finite', ~np.isfinite(score_S)), ('not from 0 to 1', (score_S < 0) | (score_S > 1))):
            if wrong_S.any():
                raise ValueError(
                    f'exit {exit_index + 1}: {int(wrong_S.sum())} of {score_S.size} scores are {what} (the first is that of sample '
                    f'{int(wrong_S.argmax())}); scores are numbers from 0 to 1: take them from score_of, which says what is wrong'
                )
        return log_odds_of_scores(score_S) if self.scale == 'log_odds' else score_S

    def leaves(self, exit_index: int, score_S: np.ndarray) -> np.ndarray:
        """Whether samples leave at an exit, if they have come to it, where only their scores are known.

        Scores end at 1; :meth:`decide` and :meth:`replay` tell more samples apart.

        Args:
            exit_index: Index of the exit, from 0.
            score_S: Scores there, shape (samples,).

        Returns:
            Booleans, shape (samples,), all true at the last exit.

        Raises:
            ValueError: If there is no such exit, or a score is no number from 0 to 1.
        """
        self._check_exit(exit_index)
        decision_score_S = self._from_scores(score_S, exit_index)
        if exit_index == self.num_exits - 1:
            return np.ones(decision_score_S.shape, bool)
        return reaches(decision_score_S, self.decision_thresholds[exit_index])

    def decide(
        self, exit_index: int, logits_SK: np.ndarray, sample_S: np.ndarray | None = None, is_last: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which samples leave at an exit that they have come to, and their scores.

        Args:
            exit_index: Index of the exit, from 0.
            logits_SK: Its logits, shape (samples, classes).
            sample_S: See :meth:`decision_scores`.
            is_last: Whether all leave here, whatever the thresholds.

        Returns:
            Booleans and scores (float32), both of shape (samples,).

        Raises:
            ValueError: As :meth:`decision_scores`.
        """
        decision_score_S = self.decision_scores(exit_index, logits_SK, sample_S)
        score_S = self._as_scores(decision_score_S)
        if is_last or exit_index == self.num_exits - 1:
            return np.ones(len(score_S), bool), score_S
        return reaches(decision_score_S, self.decision_thresholds[exit_index]), score_S

    def _last(self, last_exit: int | None, given: int, what: str) -> int:
        last = self.num_exits - 1 if last_exit is None else last_exit
        self._check_exit(last)
        if given not in (last + 1, self.num_exits):
            raise ValueError(
                f'{what} of {given} exits do not go with a policy for {self.num_exits}; pass one array per exit'
                + ('' if last_exit is None else f', or those up to last_exit={last_exit}')
            )
        return last

    def replay(self, logits_ESK: np.ndarray | Sequence[np.ndarray], last_exit: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """What the policy decides for samples whose logits at all exits are known.

        Logits at exits that a sample does not reach are not looked at.

        Args:
            logits_ESK: Logits, shape (exits, samples, classes), or a sequence of one array per exit.
            last_exit: Index of the exit at which all leave; default the last.

        Returns:
            Index of the exit at which each sample leaves, int64, and its score there, float32, both of shape (samples,).

        Raises:
            ValueError: If the shapes do not fit, or a logit that counts is not finite.
        """
        last = self._last(last_exit, len(logits_ESK), 'logits')
        logits = [np.asarray(logits_SK) for logits_SK in logits_ESK[: last + 1]]
        num_samples = len(logits[0])
        if any(logits_SK.shape != logits[0].shape for logits_SK in logits):
            raise ValueError(
                f'logits of the shapes {", ".join(str(logits_SK.shape) for logits_SK in logits)} do not belong together; pass the same '
                'samples and classes at every exit'
            )
        exit_index_S, score_S = np.full(num_samples, last, np.int64), np.empty(num_samples, np.float32)
        for start in range(0, num_samples, REPLAY_SAMPLES):
            left_S = np.arange(start, min(start + REPLAY_SAMPLES, num_samples))
            for exit_index, logits_SK in enumerate(logits):
                leaves_S, new_S = self.decide(exit_index, logits_SK[left_S], left_S, exit_index == last)
                exit_index_S[left_S[leaves_S]] = exit_index
                score_S[left_S[leaves_S]] = new_S[leaves_S]
                left_S = left_S[~leaves_S]
        return exit_index_S, score_S

    def replay_scores(self, score_ES: np.ndarray, last_exit: int | None = None) -> np.ndarray:
        """What the policy decides for samples of which only the scores at all exits are known; see :meth:`leaves`.

        Args:
            score_ES: Scores, shape (exits, samples).
            last_exit: Index of the exit at which all leave; default the last.

        Returns:
            Index of the exit at which each sample leaves, int64, shape (samples,).

        Raises:
            ValueError: If the shape does not fit, or a score is no number from 0 to 1.
        """
        score_ES = np.asarray(score_ES)
        if score_ES.ndim != 2:
            raise ValueError(f'scores of shape {score_ES.shape} cannot be replayed; pass an array of shape (exits, samples)')
        last = self._last(last_exit, len(score_ES), 'scores')
        decision_score_ES = [self._from_scores(score_S, exit_index) for exit_index, score_S in enumerate(score_ES[:last])]
        return first_exit(np.stack([*decision_score_ES, np.zeros(score_ES.shape[1])]), self.decision_thresholds[:last])

    def check_checkpoint(self, fingerprint: str, source: str = 'the checkpoint') -> None:
        """Refuse weights that the policy was not made for; a policy without a recorded fingerprint goes with any.

        Args:
            fingerprint: Fingerprint of the weights; see :func:`fingerprint_of_arrays`.
            source: Where they come from, for the message.

        Raises:
            PolicyError: If the policy records another fingerprint.
        """
        recorded = None if self.record is None else self.record.checkpoint
        if recorded is not None and recorded != fingerprint:
            raise PolicyError(
                f'the policy was made for the weights {recorded}, and {source} has {fingerprint}: its thresholds mean nothing there. '
                'Pass the checkpoint it was made for, or make a policy for this one with tools/calibrate.py'
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the policy as a JSON file, whole or not at all; a file of that name is replaced.

        A policy that decides as files of version 1 do is written as such a file, all others as version 2.

        Raises:
            FileError: If the file cannot be written, for example since its folder is missing.
        """
        write_policy_file(path, self._fields(), self.record)

    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ('score', 'thresholds', 'log_odds', 'temperature', 'scale')}

    @classmethod
    def load(cls, path: str | os.PathLike[str], checkpoint: str | None = None) -> ExitPolicy:
        """Read a policy that :meth:`save` wrote.

        Args:
            path: The file.
            checkpoint: Fingerprint of the weights that it is to be used with, which are checked; ``None`` checks nothing.

        Raises:
            PolicyError: If the file is missing or holds no policy, or one for other weights.
        """
        fields, record = read_policy_file(path)
        try:
            policy = cls(**fields, record=record)
        except UserError as error:
            raise PolicyError(f'{path}: {error}. Make the file anew with tools/calibrate.py') from error
        if checkpoint is not None:
            try:
                policy.check_checkpoint(checkpoint)
            except PolicyError as error:
                raise PolicyError(f'{path}: {error}') from None
        return policy
