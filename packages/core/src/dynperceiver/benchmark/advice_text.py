"""What a race has shown, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .advice import SMALLER, Candidate, Comparison, Verdict, qualifying

__all__ = ['advice_table', 'final_verdicts', 'sentence', 'unknowns']

WITH_EXITS = 'the network with early exits'
WIDE_INTERVAL = 0.2  # of a ratio of times


def _points(fraction: float) -> str:
    return f'{round(100 * fraction, 1) + 0.0:+.1f}'  # no minus before a zero


def _ratio(comparison: Comparison) -> str:
    low, high = comparison.ratio_interval
    return f'{comparison.ratio:.2f} of {{}} (95 % interval {low:.2f} to {high:.2f})'


def _accuracy(comparison: Comparison) -> str:
    low, high = comparison.gain_interval
    return f'{_points(comparison.gain)} points of accuracy ({_points(low)} to {_points(high)})'


def sentence(verdict: Verdict, policy_file: str | None = None) -> str:
    """Which network to deploy in a setting, and what that saves.

    Args:
        verdict: The verdict.
        policy_file: Where the policy was saved to, if it was.
    """
    where, choice, comparison = f'on {verdict.setting.text()}', verdict.choice, verdict.comparison
    rival = None if verdict.rival is None else verdict.candidates[verdict.rival]
    if choice.has_exits:
        start = f'Deploy {WITH_EXITS} and {policy_file or f"{choice.name} (--policy saves it)"} {where}'
        if rival is None or comparison is None:
            return f'{start}: there is no network without exits to compare it with.'
        if not verdict.rival_qualifies:
            return f'{start}: no network without exits is as accurate; the most accurate one, {rival.name}, takes {_against(comparison)}.'
        return f'{start}: it answers in {_ratio(comparison).format(f"the time of {rival.name}")} at {_accuracy(comparison)}.'
    start = f'Deploy {choice.name} {where}'
    if rival is None or comparison is None:
        return f'{start}: there is no policy to compare it with.'
    if not verdict.rival_qualifies:
        return f'{start}: no policy is as accurate; the most accurate one would take {_against(comparison)}.'
    return f'{start}: no policy is as accurate at less time; the best one would take {_against(comparison)}.'


def _against(comparison: Comparison) -> str:
    """The rival's figures beside the choice's, from the choice's beside the rival's."""
    low, high = comparison.ratio_interval
    turned = Comparison(
        1 / comparison.ratio, (1 / high, 1 / low), -comparison.gain,
        (-comparison.gain_interval[1], -comparison.gain_interval[0]), comparison.num_samples,
    )  # fmt: skip
    return f'{_ratio(turned).format("its time")} at {_accuracy(turned)}'


def _wanders(comparison: Comparison) -> bool:
    low, high = comparison.ratio_interval
    return high - low > WIDE_INTERVAL * comparison.ratio


def final_verdicts(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """For each batch size the verdict of the engine and number of threads that answer fastest."""
    found: dict[int, Verdict] = {}
    for verdict in verdicts:
        size = verdict.setting.batch_size
        if size not in found or verdict.choice.ms < found[size].choice.ms:
            found[size] = verdict
    return [found[size] for size in sorted(found)]


def _shown(verdict: Verdict) -> list[int]:
    """Numbers of what the table shows: all without exits; of the policies the choice or rival, the most accurate and the best."""
    policies = [number for number, one in enumerate(verdict.candidates) if one.has_exits]
    wanted = {verdict.chosen, verdict.best, *([] if verdict.rival is None else [verdict.rival])}
    if policies:
        wanted.add(max(policies, key=lambda number: verdict.candidates[number].calibration_accuracy))
    shown = [number for number, one in enumerate(verdict.candidates) if number in wanted or not one.has_exits]
    return sorted(shown, key=lambda number: verdict.candidates[number].ms)


def _row(number: int, one: Candidate, verdict: Verdict, able: set[int], width: int) -> str:
    marks = ['<- chosen'] if number == verdict.chosen else [] if number in able else ['not accurate enough']
    marks += ['best with hindsight'] if number == verdict.best != verdict.chosen else []
    exits = ' / '.join(f'{100 * fraction:.0f}' for fraction in one.judged_fractions) if one.has_exits else '-'
    ratio = one.judged_ms / verdict.choice.judged_ms
    accuracies = f'{100 * one.calibration_accuracy:>10.2f} {100 * one.accuracy:>10.2f}'
    return f'  {one.name:<{width}} {one.judged_ms:>9.3f} {ratio:>7.2f}x {accuracies}   {exits:<20} {", ".join(marks)}'.rstrip()


def advice_table(verdicts: Sequence[Verdict]) -> str:
    """All settings, with what raced in them."""
    width = max(len(one.name) for verdict in verdicts for one in verdict.candidates)
    lines = []
    for verdict in verdicts:
        able = set(qualifying(verdict.candidates, verdict.max_accuracy_drop))
        head = f'{"ms/sample":>9} {"ratio":>8} {"calibr. %":>10} {"judged %":>10}   {"% at each exit":<20}'
        lines += [verdict.setting.text(), f'  {"":<{width}} {head}'.rstrip()]
        lines += [_row(number, verdict.candidates[number], verdict, able, width) for number in _shown(verdict)]
        lack = max(one.accuracy for one in verdict.candidates) - verdict.choice.accuracy
        lines.append(f'  with hindsight the best choice would have taken {100 / (1 + verdict.regret):.1f} % of this time;')
        lines += [f'  on the samples that judge, the choice lacks {100 * lack:.1f} points to the most accurate one', '']
    return '\n'.join(lines[:-1])


def unknowns(
    verdicts: Sequence[Verdict], *, num_given: int, trunk_differs: bool = False, machine: str = '', skipped: Mapping[str, str] | None = None
) -> list[str]:
    """What cannot be known from such a race, one statement each.

    Args:
        verdicts: The verdicts.
        num_given: Static networks that were given.
        trunk_differs: Whether the network's own CNN answers otherwise alone than within the network.
        machine: What the times hold for.
        skipped: What did not race, and why.
    """
    found = []
    if not num_given:
        found.append('No trained static networks were given (--static): a smaller one, trained alone, may be faster at this accuracy.')
    if trunk_differs:
        found.append(
            'The CNN was trained together with the latent branch and answers worse without it: what it reaches trained alone is not known.'
        )
    if any(one.kind == SMALLER for one in verdicts[0].candidates):
        found.append('Heads were not trained anew for smaller inputs: that would raise their accuracy, so theirs is a lower bound.')
    seen = next((verdict.comparison for verdict in verdicts if verdict.comparison is not None), None)
    if seen is not None:
        half = (seen.gain_interval[1] - seen.gain_interval[0]) / 2
        found.append(f'{seen.num_samples} samples judged: differences of less than {100 * half:.1f} points of accuracy cannot be told.')
    if any(_wanders(verdict.comparison) for verdict in verdicts if verdict.comparison is not None):
        found.append('Times wandered: something else ran meanwhile, or the rounds were few. Repeat it while nothing else runs (--rounds).')
    found += [f'{name} did not race: {why}.' for name, why in (skipped or {}).items()]
    if machine:
        found.append(f'Times hold for {machine}, and include no loading or resizing of images.')
    return found
