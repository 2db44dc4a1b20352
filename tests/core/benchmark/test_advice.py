"""What to deploy: choices among made-up candidates whose best one is known, and what is said of them."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from dynperceiver.benchmark.advice import (
    POLICY,
    SMALLER,
    STATIC,
    Candidate,
    Setting,
    Verdict,
    choose,
    compare,
    policy_candidates,
    qualifying,
    regret_of,
)
from dynperceiver.benchmark.advice_text import advice_table, final_verdicts, sentence, unknowns
from dynperceiver.calibration import HeldOutScores, evaluate

SETTING = Setting('torch', 2, 1)


def static(name: str, ms: float, accuracy: float, judged: float | None = None, kind: str = STATIC, num_samples: int = 2000) -> Candidate:
    """A network without exits; the first of the samples that judge are those that it is right about."""
    calibration_S, right_S = (np.arange(num_samples) < round(num_samples * part) for part in (accuracy, judged or accuracy))
    return Candidate(name, kind, np.full((5, 1), ms), (1.0,), calibration_S, np.zeros(num_samples, np.int64), right_S)


def policy(name: str, ms: tuple[float, ...], fractions: tuple[float, ...], accuracy: float, judged: float | None = None) -> Candidate:
    """A policy."""
    plain = static(name, 1.0, accuracy, judged, POLICY)
    exit_S = np.searchsorted(np.cumsum(fractions)[:-1] * len(plain.right_S), np.arange(len(plain.right_S)), side='right')
    return replace(plain, exit_ms_RE=np.tile(ms, (5, 1)), exit_fractions=fractions, exit_S=exit_S)


def names(candidates: list[Candidate], numbers: list[int]) -> list[str]:
    return [candidates[number].name for number in numbers]


def test_fastest_of_those_that_are_accurate_enough() -> None:
    trunk, small = static('trunk', 10.0, 0.9), static('small', 4.0, 0.88, kind=SMALLER)
    quick, sure = policy('quick', (3.0, 11.0), (0.6, 0.4), 0.896), policy('sure', (3.0, 11.0), (0.2, 0.8), 0.9005)
    candidates = [trunk, small, quick, sure]
    assert names(candidates, qualifying(candidates, 0.005)) == ['trunk', 'quick', 'sure']
    assert candidates[choose(candidates)].name == 'quick' and quick.ms == pytest.approx(6.2)
    assert candidates[choose(candidates, 0.001)].name == 'sure'
    assert candidates[choose(candidates, 0.03)].name == 'small'
    assert candidates[choose(candidates[:2])].name == 'trunk'


def test_scale_of_narrowing_batches_counts() -> None:
    trunk, early = static('trunk', 10.0, 0.9), policy('early', (3.0, 11.0), (0.5, 0.5), 0.9)
    assert choose([trunk, early]) == 1
    assert choose([trunk, replace(early, scale=1.5)]) == 0
    assert replace(early, scale=1.5).ms == pytest.approx(10.5)


def test_a_tie_is_no_reason_for_exits() -> None:
    trunk = static('trunk', 10.0, 0.9)
    for ms, chosen in ((10.0, 0), (9.85, 0), (9.75, 1)):
        assert choose([trunk, policy('early', (ms, 11.0), (1.0, 0.0), 0.9)]) == chosen


def test_a_tie_with_a_network_that_is_not_accurate_enough_is_none() -> None:
    assert choose([static('trunk', 10.0, 0.8), policy('early', (10.0, 11.0), (1.0, 0.0), 0.9)]) == 1


def test_a_difference_that_may_be_chance_leaves_nobody_out() -> None:
    """Two networks that are right about other samples: one lacks a point, with a standard error of two."""
    exits = policy('exits', (8.0, 11.0), (1.0, 0.0), 0.6)
    trunk = static('trunk', 3.0, 0.6)
    few, many = (np.roll(trunk.calibration_right_S, shift) & (np.arange(2000) % 60 > 0) for shift in (1000, 0))
    assert exits.calibration_accuracy - few.mean() == pytest.approx(exits.calibration_accuracy - many.mean(), abs=0.001)
    assert choose([exits, replace(trunk, calibration_right_S=few)]) == 1
    assert choose([exits, replace(trunk, calibration_right_S=many)]) == 0


def test_the_luckiest_of_many_equals_does_not_leave_the_others_out() -> None:
    """Twenty candidates that are equally good, each right about samples of its own: the fastest is the best choice."""
    chosen = []
    for seed in range(40):
        right_CS = np.random.default_rng(seed).random((20, 500)) < 0.6
        candidates = [replace(static(str(one), 1.0 + one, 0.6), calibration_right_S=right_S) for one, right_S in enumerate(right_CS)]
        chosen.append(choose(candidates))
    assert chosen.count(0) >= 24  # 14 if they were compared with the luckiest


def test_nobody_but_the_trunk_qualifies() -> None:
    trunk, small = static('trunk', 10.0, 0.9), static('small', 5.0, 0.8, kind=SMALLER)
    candidates = [policy('early', (3.0, 11.0), (0.5, 0.5), 0.7), trunk, small]
    verdict = Verdict.of(SETTING, candidates)
    assert (verdict.choice.name, verdict.rival, verdict.rival_qualifies) == ('trunk', 0, False)
    assert sentence(verdict) == (
        'Deploy trunk on torch, 2 threads, batch size 1: no policy is as accurate; the most accurate one would take 0.70 of its time '
        f'{between(sentence(verdict))}.'
    )
    assert re.search(r'\(95 % interval 0\.6\d to 0\.7\d\) at -20\.0 points of accuracy \(-2\d\.\d to -1\d\.\d\)\.$', sentence(verdict))


def between(text: str) -> str:
    """From the interval on."""
    return text[text.index('(95 %') : -1]


def test_sentences_of_winner_and_loser() -> None:
    trunk, early = static('trunk', 10.0, 0.9), policy('early', (3.0, 11.0), (0.6, 0.4), 0.9)
    verdict = Verdict.of(SETTING, [trunk, early])
    text = sentence(verdict, 'policy.json')
    assert text.startswith(
        'Deploy the network with early exits and policy.json on torch, 2 threads, batch size 1: it answers in 0.62 of the time of trunk '
        '(95 % interval 0.6'
    )
    assert text.endswith(' at +0.0 points of accuracy (+0.0 to +0.0).')
    among = Verdict.of(SETTING, [static('slower', 12.0, 0.9), trunk, static('sloppy', 8.0, 0.8), early, static('slowest', 13.0, 0.904)])
    assert (among.chosen, among.rival) == (3, 1)
    slow = Verdict.of(SETTING, [trunk, policy('slow', (8.0, 20.0), (0.5, 0.5), 0.9)])
    assert ': no policy is as accurate at less time; the best one would take 1.40 of its time (95 % interval 1.3' in sentence(slow)
    alone = Verdict.of(SETTING, [policy('early', (3.0, 11.0), (0.5, 0.5), 0.95), static('trunk', 10.0, 0.9)])
    assert ': no network without exits is as accurate; the most accurate one, trunk, takes 1.43 of its time (95 %' in sentence(alone)
    assert sentence(Verdict.of(SETTING, [trunk])).endswith('there is no policy to compare it with.')
    assert sentence(Verdict.of(SETTING, [early])).endswith('there is no network without exits to compare it with.')
    table = advice_table([verdict, slow])
    assert table.count('<- chosen') == 2 and 'torch, 2 threads, batch size 1\n' in table and '60 / 40' in table


def test_the_last_words_are_of_the_fastest_engine_for_each_batch_size() -> None:
    verdicts = [
        Verdict.of(Setting(engine, 1, size), [static(engine, ms, 0.9)])
        for engine, size, ms in (('torch', 1, 5.0), ('torch', 8, 2.0), ('onnxruntime', 1, 4.0), ('onnxruntime', 8, 3.0))
    ]
    assert [(one.setting.batch_size, one.setting.engine) for one in final_verdicts(verdicts)] == [(1, 'onnxruntime'), (8, 'torch')]


def test_what_cannot_be_known() -> None:
    verdict = Verdict.of(SETTING, [static('trunk', 10.0, 0.9), static('small', 9.0, 0.8, kind=SMALLER)])
    text = ' '.join(unknowns([verdict], num_given=0, trunk_differs=True, machine='a machine', skipped={'x at 8x8': 'it cannot run'}))
    said = ('No trained static networks', 'trained together with', 'a lower bound', 'x at 8x8 did not race', 'Times hold for a machine')
    for part in said:
        assert part in text
    assert unknowns([Verdict.of(SETTING, [static('trunk', 10.0, 0.9)])], num_given=1) == []
    steady, early = static('trunk', 10.0, 0.9), policy('early', (4.0, 4.0), (0.5, 0.5), 0.9)
    shaken = replace(steady, exit_ms_RE=steady.exit_ms_RE * np.array([[0.6], [0.8], [1.0], [1.2], [1.4]]))
    for trunk, wanders in ((steady, False), (shaken, True)):
        assert ('Times wandered' in ' '.join(unknowns([Verdict.of(SETTING, [trunk, early])], num_given=1))) == wanders


def test_wrong_drops_are_refused() -> None:
    with pytest.raises(ValueError, match=r'max_accuracy_drop=1\.5: it is a fraction of the samples in \[0, 1\); 0\.005 is half a point'):
        choose([static('trunk', 10.0, 0.9)], 1.5)
    with pytest.raises(ValueError, match='nothing to choose among'):
        choose([])


def test_regret_is_taken_on_the_samples_that_judge() -> None:
    trunk, early = static('trunk', 10.0, 0.9), policy('early', (4.0, 11.0), (1.0, 0.0), 0.9, judged=0.8)
    assert regret_of([trunk, early], 1)[0] == 0  # it is faster than what is as accurate as it has to be
    assert regret_of([trunk, early], 0) == (0.0, 0)
    better = replace(early, right_S=trunk.right_S)
    assert regret_of([trunk, better], 0) == (pytest.approx(1.5), 1)


class Network:
    """Scores of a made-up network: images are hard to different degrees, later exits cope with harder ones, and know how sure to be."""

    def __init__(self, seed: int, skills: tuple[float, ...], noise: float = 1.0) -> None:
        self.generator, self.skills, self.noise = np.random.default_rng(seed), skills, noise

    def samples(self, count: int) -> tuple[HeldOutScores, np.ndarray]:
        """Scores of the exits, and whether the network alone, which is as good as the last exit, is right."""
        hard_S = self.generator.normal(size=count)
        margin_ES = np.stack([2 * (skill - hard_S) + self.noise * self.generator.normal(size=count) for skill in self.skills])
        chance_ES = 1 / (1 + np.exp(-margin_ES))
        correct_ES = self.generator.random(count) < chance_ES  # what one exit gets wrong, others rather do, too
        return HeldOutScores(np.abs(chance_ES - 0.5) * 2, correct_ES), correct_ES[-1]


def race(seed: int, skills: tuple[float, ...], ms: tuple[float, ...], alone_ms: float, num_samples: int = 1200) -> Verdict:
    """A race of a made-up network against its last exit as the network alone."""
    network = Network(seed, skills)
    (calibration, alone_S), (judged, judged_alone_S) = network.samples(num_samples), network.samples(num_samples)
    wander_R = 1 + 0.03 * network.generator.normal(size=(15, 1))
    times_RE = np.array(ms) * wander_R
    candidates = policy_candidates(calibration, judged, times_RE, 13)
    nowhere_S = np.zeros(num_samples, np.int64)
    candidates.append(
        Candidate('alone', STATIC, alone_ms * wander_R, (1.0,), alone_S, nowhere_S, judged_alone_S)
    )  # fmt: skip
    return Verdict.of(SETTING, candidates)


@pytest.mark.parametrize(
    ('skills', 'ms', 'alone_ms', 'has_exits'),
    [
        ((1.0, 2.0, 2.2), (0.35, 0.7, 1.0), 1.0, True),  # lean exits
        ((1.0, 2.0, 2.2), (0.9, 1.9, 2.5), 1.0, False),  # exits that cost as much as the network
        ((1.0, 2.4, 1.8), (0.4, 0.7, 1.0), 1.0, True),  # the last exit is not the best one
        ((-1.0, -0.5, 2.5), (0.4, 0.8, 1.0), 1.0, False),  # early exits that know nothing
    ],
)  # fmt: skip
def test_known_winners(skills: tuple[float, ...], ms: tuple[float, ...], alone_ms: float, has_exits: bool) -> None:
    for seed in range(3):
        verdict = race(seed, skills, ms, alone_ms)
        assert verdict.choice.has_exits == has_exits
        if skills[1] > skills[2]:
            assert verdict.choice.exit_fractions[-1] < 0.2 and verdict.comparison is not None and verdict.comparison.gain > 0


def test_regret_of_choices_is_small() -> None:
    """Judged on samples that no choice saw, over networks of many kinds."""
    regrets = [
        race(seed, skills, ms, 1.0).regret
        for seed in range(2)
        for skills in ((1.0, 2.0, 2.2), (0.5, 1.5, 2.5), (1.0, 2.4, 1.8))
        for ms in ((0.35, 0.7, 1.0), (0.5, 0.8, 1.0), (0.9, 1.5, 2.0))
    ]
    assert np.mean(regrets) <= 0.05 and min(regrets) >= 0


def test_intervals_cover() -> None:
    """Of time and of accuracy, over draws of samples: 95 % intervals miss the truth about once in twenty."""
    hits, count = [0, 0, 0], 120
    for seed in range(count):
        generator = np.random.default_rng(seed)
        right_S = generator.random(400) < 0.8
        flip_S = generator.random(400)
        better_S = np.where(flip_S < 0.08, True, np.where(flip_S < 0.12, False, right_S))
        times_R = 10 * (1 + 0.1 * generator.normal(size=25))
        noise_R2 = 1 + 0.05 * generator.normal(size=(25, 2))
        early_S = (generator.random(400) < 0.5).astype(np.int64)
        mine = Candidate('a', POLICY, np.array([3.0, 9.0]) / 10 * times_R[:, None] * noise_R2, (0.5, 0.5), right_S, early_S, better_S)
        other = Candidate('b', STATIC, times_R[:, None], (1.0,), right_S, np.zeros(400, np.int64), right_S)
        found = compare(mine, other, num_draws=400)
        gain = 0.08 * 0.2 - 0.04 * 0.8
        hits[0] += found.gain_interval[0] <= gain <= found.gain_interval[1]
        hits[1] += found.ratio_interval[0] <= 0.6 <= found.ratio_interval[1]
        found = compare(replace(other, exit_ms_RE=0.6 * times_R[:, None] * noise_R2[:, :1]), other, num_draws=400)
        hits[2] += found.ratio_interval[0] <= 0.6 <= found.ratio_interval[1]
    assert min(hits) >= 0.88 * count, hits


def test_policies_are_not_chosen_by_the_samples_that_they_were_solved_on() -> None:
    """With exits that guess, whatever looks better than the last one on the samples that a policy was solved on is luck."""
    honest, hopeful = [], []
    for seed in range(4):
        network = Network(seed, (0.0, 0.0, 0.0), noise=6.0)
        (calibration, _), (judged, _) = network.samples(120), network.samples(20000)
        for one in policy_candidates(calibration, judged, np.tile((0.4, 0.7, 1.0), (3, 1)), 9):
            assert one.policy is not None
            honest.append(one.calibration_accuracy - one.accuracy)
            hopeful.append(evaluate(one.policy, calibration, (0.4, 0.7, 1.0)).accuracy - one.accuracy)
    assert np.mean(honest) < 0.005 and np.mean(hopeful) > 0.015
