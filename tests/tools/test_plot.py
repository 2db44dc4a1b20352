"""tools/plot.py: a picture comes out, and unusable results are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_action import DEMO_CONFIG
from tool_runs import ROOT

Plot = Callable[..., None]
ACCURACIES = (0.5, 0.6, 0.75, 0.9)


@pytest.fixture
def plot(call_tool: Callable[..., None]) -> Plot:
    """Function that runs the tool."""
    return lambda *arguments: call_tool('plot', *arguments)


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """What a test leaves."""
    values = {f'acc/exit{i}_top1': value for i, value in enumerate(ACCURACIES, 1)}
    values |= {f'acc/exit{i}_mean_class': value - 0.1 for i, value in enumerate(ACCURACIES, 1)}
    (tmp_path / 'result.json').write_text(json.dumps({**values, 'data_time': 0.1, 'time': 0.2}))
    return tmp_path / 'result.json'


def test_picture_appears_with_folder_and_summary(plot: Plot, result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import cv2

    out = result.parent / 'pictures' / 'tradeoff.png'
    plot(out, f'{DEMO_CONFIG}={result}')
    picture = cv2.imread(str(out))
    assert picture.shape[0] > 400 and picture.shape[1] > 600 and picture.std() > 10
    assert [path.name for path in out.parent.iterdir()] == ['tradeoff.png']
    text = capsys.readouterr().out
    assert text.startswith(f'{out}: tsm_dynperceiver_demo 50.0% at ') and text.count(' GMACs') == 4 and '90.0% at' in text


def test_exits_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    from dynperceiver.viz import read_exit_accuracies

    values = {f'acc/exit{number}_top1': number / 100 for number in (10, 2, 11, 1)} | {'acc/exit1_top10': 0.5, 'acc/exited_top1': 0.5}
    (tmp_path / 'result.json').write_text(json.dumps(values))
    assert read_exit_accuracies(tmp_path / 'result.json') == [0.01, 0.02, 0.1, 0.11]


def test_two_results_make_two_lines(plot: Plot, result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [f'{DEMO_CONFIG}={result}', f'{ROOT}/configs/action/tsm_dynperceiver_demo_noshift.py={result}']
    plot(result.with_name('a.png'), *pairs, '--labels', 'with shift', 'without', '--metric', 'mean_class')
    text = capsys.readouterr().out
    assert 'with shift 40.0% at' in text and '; without 40.0% at' in text


def test_costs_on_the_axis_are_those_of_get_flops(plot: Plot, result: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmengine.config import Config

    from dynperceiver.analysis import costs_of_config

    drawn = {}
    monkeypatch.setattr('dynperceiver.viz.plot_exit_tradeoff', lambda series, *rest: drawn.update(series=series, rest=rest))
    plot(result.with_name('a.png'), f'{DEMO_CONFIG}={result}')
    costs = [row['cost_gmacs'] for row in costs_of_config(Config.fromfile(DEMO_CONFIG))['exits']]
    assert drawn['series'] == {'tsm_dynperceiver_demo': list(zip(costs, ACCURACIES, strict=True))}
    assert drawn['rest'][1] == 1 / 8 and drawn['rest'][3] == 'clip of 8 frames'


def test_ending_says_the_format(plot: Plot, result: Path) -> None:
    plot(result.with_name('a.svg'), f'{DEMO_CONFIG}={result}')
    assert '<svg' in result.with_name('a.svg').read_text()


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('{"step": 1}\n{"step": 2}\n', r'^error: .*result\.json is not the JSON file of one test \(.*\); pass the one that tools/test\.py'),
        ('', r'^error: .*result\.json is not the JSON file of one test'),
        ('[1, 2]', r'^error: .*result\.json is not the JSON file of one test \(it holds a list\)'),
        ('{"acc/top1": 0.5}', r'^error: .*result\.json has no top1 per exit, only acc/top1; pass the JSON file that tools/test\.py writes'),
        ('{"acc/exit1_top1": 0.5}', r'^error: .*result\.json has 1 exits, the model of .*demo\.py has 4; '),
        (None, r'^error: result .*result\.json is missing; pass the one that tools/test\.py writes'),
    ],
)
def test_unusable_result_is_named(plot: Plot, result: Path, content: str | None, message: str) -> None:
    result.unlink()
    if content is not None:
        result.write_text(content)
    with pytest.raises(SystemExit, match=message):
        plot(result.with_name('a.png'), f'{DEMO_CONFIG}={result}')
    assert not result.with_name('a.png').exists()


def test_wrong_pairs_and_labels_are_refused(plot: Plot, result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        plot(result.with_name('a.png'), str(result))
    assert 'each pair is CONFIG=RESULT.json' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        plot(result.with_name('a.png'), f'{DEMO_CONFIG}={result}', '--labels', 'one', 'two')
    assert '2 labels were given for 1 pairs' in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r'^error: config none\.py is missing'):
        plot(result.with_name('a.png'), f'none.py={result}')
