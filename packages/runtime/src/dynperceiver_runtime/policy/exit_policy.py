"""The policy of early exiting: which exit's answer is taken, and how that is decided.

A sample leaves at the first exit whose score reaches that exit's threshold; the last exit takes all that are left.

Shape suffixes: E exits, S samples, K classes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .policy_file import PolicyError, PolicyRecord, fingerprint_of_arrays, read_policy_file, write_policy_file
from .scores import SCORES, check_score, check_temperature, score_samples

__all__ = ['NEVER', 'SCORES', 'TIE_TOLERANCE', 'ExitPolicy', 'PolicyError', 'PolicyRecord', 'fingerprint_of_arrays']

TIE_TOLERANCE = 5e-6
"""How far below the threshold a score may lie: solved thresholds are scores of samples, and the same sample's score differs by rounding
between batch sizes and backends."""

NEVER = 2.0
"""Threshold at which nobody leaves."""

REPLAY_SAMPLES = 4096  # replayed at once


def _floats(values: object, name: str, remedy: str) -> tuple[float, ...]:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ValueError(f'{name}={values!r} is no sequence of numbers; {remedy}')
    values = tuple(values)
    try:
        return tuple(float(value) for value in values)
    except OverflowError:
        raise ValueError(f'{name} has a whole number of more than 308 digits, which no float holds; {remedy}') from None
    except (TypeError, ValueError):
        raise ValueError(f'{name}={values} are not all numbers; {remedy}') from None


@dataclass(frozen=True)
class ExitPolicy:
    """When a sample leaves.

    Args:
        thresholds: Score from which on a sample leaves, per exit but the last; at 0 all leave, above 1 none.
        score: How sure an exit is: ``'confidence'`` (largest softmax probability), ``'margin'`` (difference of the two largest) or
            ``'entropy'`` (1 minus the softmax's entropy over its largest possible one); each runs from 0 to 1.
        temperature: What an exit's logits are divided by before the softmax: one number, or one per exit. Kept as one per exit.
        record: What the policy was made from, if known.

    Raises:
        ValueError: If there is no threshold, or one is negative or not finite; the score is unknown; or a temperature is outside
            :data:`~dynperceiver_runtime.policy.scores.TEMPERATURE_LIMITS`, or there are not as many as exits; or the record has costs for
            another number of exits.
    """

    thresholds: tuple[float, ...]
    score: str = 'confidence'
    temperature: tuple[float, ...] | float = 1.0
    record: PolicyRecord | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        thresholds = _floats(self.thresholds, 'thresholds', 'pass one per exit but the last, such as (0.7, 0.8, 0.9) for four exits')
        if not thresholds:
            raise ValueError('thresholds=() is empty; pass one per exit but the last, one or more')
        for number, threshold in enumerate(thresholds, 1):
            if not math.isfinite(threshold) or threshold < 0:
                raise ValueError(
                    f'threshold {threshold} of exit {number}: thresholds are finite numbers of 0 (all leave) or more; to let nobody leave, '
                    f'set {NEVER}'
                )
        temperature, num_exits = self.temperature, len(thresholds) + 1
        if isinstance(temperature, int | float | np.generic) or np.ndim(temperature) == 0:
            temperatures = _floats([temperature], 'temperature', 'pass one number, or one per exit') * num_exits
        else:
            temperatures = _floats(temperature, 'temperature', 'pass one number, or one per exit')
        if len(temperatures) != num_exits:
            raise ValueError(
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
                    raise ValueError(f'the record has {len(costs)} {name} for {num_exits} exits; record one per exit, the last included')
        object.__setattr__(self, 'thresholds', thresholds)
        object.__setattr__(self, 'temperature', temperatures)

    @property
    def num_exits(self) -> int:
        """Number of exits, the last included."""
        return len(self.thresholds) + 1

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Temperature per exit."""
        return self.temperature if isinstance(self.temperature, tuple) else (self.temperature,) * self.num_exits

    def _check_exit(self, exit_index: int) -> None:
        if not 0 <= exit_index < self.num_exits:
            raise ValueError(f'exit_index={exit_index}: the policy has {self.num_exits} exits; pass 0 to {self.num_exits - 1}')

    def score_of(self, exit_index: int, logits_SK: np.ndarray, sample_S: np.ndarray | None = None) -> np.ndarray:
        """How sure an exit is of its answers.

        Args:
            exit_index: Number of the exit, from 0.
            logits_SK: Its logits, shape (samples, classes).
            sample_S: Numbers of the samples for messages, where they are a part of a larger batch; default 0, 1, 2...

        Returns:
            Scores in [0, 1], float32, shape (samples,).

        Raises:
            ValueError: If there is no such exit, the shape is another, or a logit is not finite.
        """
        self._check_exit(exit_index)
        return score_samples(logits_SK, self.score, self.temperatures[exit_index], exit_index, sample_S)

    def leaves(self, exit_index: int, score_S: np.ndarray) -> np.ndarray:
        """Whether samples leave at an exit, if they have come to it.

        Args:
            exit_index: Number of the exit, from 0.
            score_S: Scores there, shape (samples,).

        Returns:
            Booleans, shape (samples,): all true at the last exit, elsewhere where the score reaches the threshold, less
            :data:`TIE_TOLERANCE`.

        Raises:
            ValueError: If there is no such exit, or a score is not finite.
        """
        self._check_exit(exit_index)
        score_S = np.asarray(score_S, np.float64)
        finite_S = np.isfinite(score_S)
        if not finite_S.all():
            raise ValueError(
                f'exit {exit_index + 1}: {int((~finite_S).sum())} of {score_S.size} scores are not finite (the first is that of sample '
                f'{int(finite_S.argmin())}). Rule: scores are numbers in [0, 1]. Remedy: take them from score_of, which says what is wrong'
            )
        if exit_index == self.num_exits - 1:
            return np.ones(score_S.shape, bool)
        threshold = self.thresholds[exit_index]
        return np.zeros(score_S.shape, bool) if threshold > 1 else np.asarray(score_S >= threshold - TIE_TOLERANCE)

    def decide(
        self, exit_index: int, logits_SK: np.ndarray, sample_S: np.ndarray | None = None, is_last: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which samples leave at an exit that they have come to, and their scores.

        Args:
            exit_index: Index of the exit, from 0.
            logits_SK: Its logits, shape (samples, classes).
            sample_S: See :meth:`score_of`.
            is_last: Whether all leave here, whatever the thresholds.

        Returns:
            Booleans and scores (float32), both of shape (samples,).

        Raises:
            ValueError: As :meth:`score_of`.
        """
        score_S = self.score_of(exit_index, logits_SK, sample_S)
        return np.ones(len(score_S), bool) if is_last else self.leaves(exit_index, score_S), score_S

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
            last_exit: Number of the exit at which all leave; default the last.

        Returns:
            Number of the exit at which each sample leaves, int64, and its score there, float32, both of shape (samples,).

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
                new_S = self.score_of(exit_index, logits_SK[left_S], left_S)
                leaves_S = self.leaves(exit_index, new_S) | (exit_index == last)
                exit_index_S[left_S[leaves_S]] = exit_index
                score_S[left_S[leaves_S]] = new_S[leaves_S]
                left_S = left_S[~leaves_S]
        return exit_index_S, score_S

    def replay_scores(self, score_ES: np.ndarray, last_exit: int | None = None) -> np.ndarray:
        """What the policy decides for samples whose scores at all exits are known.

        Args:
            score_ES: Scores, shape (exits, samples).
            last_exit: Number of the exit at which all leave; default the last.

        Returns:
            Number of the exit at which each sample leaves, int64, shape (samples,).

        Raises:
            ValueError: If the shape does not fit, or a score is not finite.
        """
        score_ES = np.asarray(score_ES)
        if score_ES.ndim != 2:
            raise ValueError(f'scores of shape {score_ES.shape} cannot be replayed; pass an array of shape (exits, samples)')
        last = self._last(last_exit, len(score_ES), 'scores')
        exit_index_S = np.full(score_ES.shape[1], last, np.int64)
        for exit_index in reversed(range(last)):
            exit_index_S[self.leaves(exit_index, score_ES[exit_index])] = exit_index
        return exit_index_S

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
                'Remedy: pass the checkpoint it was made for, or make a policy for this one with tools/calibrate.py'
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the policy as a JSON file, whole or not at all; a file of that name is replaced.

        Raises:
            FileNotFoundError: If the folder is missing.
            PolicyError: If the file cannot be written.
        """
        fields = {'score': self.score, 'thresholds': list(self.thresholds), 'temperature': list(self.temperatures)}
        write_policy_file(path, fields, self.record)

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
        except ValueError as error:
            raise PolicyError(f'{path}: {error}. Make the file anew with tools/calibrate.py') from error
        if checkpoint is not None:
            try:
                policy.check_checkpoint(checkpoint)
            except PolicyError as error:
                raise PolicyError(f'{path}: {error}') from None
        return policy
