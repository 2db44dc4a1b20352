"""tools/benchmark.py and what it stands on: scripted exits, the backbone-only baseline, rows, ratios and the table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from core_models import narrow_model

from dynperceiver.analysis import count_exit_costs
from dynperceiver.benchmark import TimingTable, speed
from dynperceiver.benchmark.speed import ScriptedPolicy, measure_speed, script_exits, speed_table, static_trunk_of, time_policies
from dynperceiver.inference import DynamicRunner, ExitPolicy, PolicyRecord, gather

BACKBONE = dict(
    type='dynperceiver.DynPerceiver', feature_branch='resnet18', width=0.125, num_latents=16, depth_factors=(2 / 3, 1 / 3, 2 / 9, 1 / 3),
    num_classes=5,
)  # fmt: skip
SHARES = (0.4, 0.3, 0.1, 0.2)
QUICK = ('--backend', 'torch', '--batch-sizes', '1', '4', '--rounds', '3', '--shape', '32')
Tool = Callable[..., None]


@pytest.fixture(scope='module')
def network() -> Any:
    """The narrowest network, in float32."""
    return narrow_model('resnet18').float()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config with that network alone, and its checkpoint beside it."""
    (tmp_path / 'config.py').write_text(f'model = {BACKBONE!r}')
    torch.save({'state_dict': narrow_model('resnet18').float().state_dict()}, tmp_path / 'weights.pth')
    return tmp_path / 'config.py'


@pytest.mark.parametrize(('count', 'expected'), [(40, [16, 12, 4, 8]), (64, [26, 19, 6, 13]), (1, [1, 0, 0, 0]), (3, [1, 1, 0, 1])])
def test_script_has_the_shares_as_nearly_as_possible(count: int, expected: list[int]) -> None:
    exits = script_exits(SHARES, count)
    assert np.bincount(exits, minlength=4).tolist() == expected
    assert count < 10 or (exits != np.sort(exits)).any()


def test_scripted_samples_leave_where_they_were_sent(network: Any) -> None:
    exits = np.array([2, 0, 3, 1, 0])
    images = torch.randn(5, 3, 32, 32)
    runner = DynamicRunner(network, ScriptedPolicy(exits, 4))
    result = runner(images)
    assert result.exit_index.tolist() == exits.tolist()
    full = runner.full_logits(images)
    np.testing.assert_allclose(result.logits, full[exits, np.arange(5)], atol=1e-5)
    stream = gather(runner.stream([images, images], 5))
    assert stream.exit_index.tolist() == [*exits, *exits]


def test_scripted_policy_refuses_what_any_policy_refuses() -> None:
    with pytest.raises(ValueError, match='not finite'):
        ScriptedPolicy(np.zeros(2, int), 4).score_of(0, np.full((2, 5), np.nan, np.float32))


def test_static_trunk_is_feature_branch_and_exit_3(network: Any) -> None:
    images = torch.randn(2, 3, 32, 32)
    trunk = static_trunk_of(network).eval()
    assert {id(p) for p in trunk.parameters()} < {id(p) for p in network.parameters()}
    with torch.no_grad():
        torch.testing.assert_close(trunk(images)[0], network.exits[2](network.feature_branch.pyramid(images, (4,))[0]))
    np.testing.assert_allclose(speed.folded_call(trunk, images)(), speed.eager_call(trunk, images)(), atol=1e-4)
    np.testing.assert_allclose(speed.eager_call(network, images)(), network(images)[-1].detach(), atol=1e-6)
    with pytest.raises(ValueError, match='built without exits'):
        static_trunk_of(narrow_model('resnet18', num_classes=None))


def test_static_trunk_in_onnx_runtime_answers_alike(network: Any) -> None:
    pytest.importorskip('onnxruntime')
    images, trunk = torch.randn(3, 3, 32, 32), static_trunk_of(network).eval()
    np.testing.assert_allclose(speed.onnx_call(trunk, images, 1)(), speed.eager_call(trunk, images)(), atol=1e-4)


def _made_up(monkeypatch: pytest.MonkeyPatch, ms_of: Callable[[str, int], float]) -> list[list[str]]:
    """Let times be made up by name and batch size of a call, once each call was made; returns names of what was timed."""
    seen: list[list[str]] = []
    sizes = iter((1, 4))

    def fake(calls: dict[str, Any], rounds: int, max_seconds: float, progress: Any) -> TimingTable:
        size = next(sizes)
        for call in calls.values():
            call()
        seen.append(list(calls))
        return TimingTable({name: np.full(rounds, ms_of(name, size)) for name in calls}, dict.fromkeys(calls, 1))

    monkeypatch.setattr(speed, 'time_calls', fake)
    return seen


def test_report(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mix runs over 40 samples: 40 batches of 1, 10 batches of 4; exit k takes k ms per image, the trunk 2.5 and 0.5."""

    def ms_of(name: str, size: int) -> float:
        if name == 'policy':
            return 40 * (2.0 if size == 1 else 1.5)
        return size * (float(name[-1]) if name.startswith('exit') else 2.5 if size == 1 else 0.5)

    seen = _made_up(monkeypatch, ms_of)
    report = measure_speed(network, ['torch'], (4, 1), (32, 32), exit_fractions=SHARES, eager=True, rounds=3)
    names = ['exit 1', 'exit 2', 'exit 3', 'exit 4', 'backbone-only baseline', 'policy', 'eager network', 'eager backbone-only baseline']
    assert seen == [names, names]
    rows = {(row['name'], row['batch_size']): row for row in report['rows']}
    assert rows['exit 3', 4]['ms'] == 3.0 and rows['exit 3', 4]['over_static'] == pytest.approx(6)
    assert rows['exit 1', 1]['over_full'] == pytest.approx(0.25) and rows['exit 1', 1]['num_rounds'] == 3
    assert (rows['policy', 1]['ms'], rows['policy', 4]['ms']) == (2.0, 1.5)
    assert rows['policy', 1]['over_static'] == pytest.approx(0.8) and rows['policy', 4]['over_static'] == pytest.approx(3)
    assert rows['policy', 4]['over_full'] == pytest.approx(1.5 / 4)
    gmacs = [cost.cost_gmacs for cost in count_exit_costs(network, 32, 32)]
    assert [report['gmacs'][f'exit {k}'] for k in (1, 2, 3, 4)] == gmacs
    assert report['gmacs']['policy'] == pytest.approx(float(np.dot(SHARES, gmacs)))
    assert 0 < report['gmacs']['backbone-only baseline'] < gmacs[2]
    assert report['crossovers']['torch'] == [
        'faster than the backbone-only baseline at batch size 1 only, and not from any size on',
        'faster than the full network from batch size 1 on (the smallest measured; 0.50 times its time there)',
    ]
    text = speed_table(report)
    assert '40.0 / 30.0 / 10.0 / 20.0 % of the samples leave at exits 1-4' in text and report['machine'] in text
    (line,) = (line for line in text.splitlines() if line.startswith('exit 3'))
    assert line.split()[3:] == ['3.000', '1.200x', '3.000', '6.000x']
    assert json.loads(json.dumps(report)) == report


def test_mix_leaves_the_policy_of_the_runner_as_it_was(network: Any) -> None:
    policy = ExitPolicy((0.5, 0.5, 0.5))
    runner = DynamicRunner(network, policy)
    call, num_batches = speed.mix_call(runner, torch.randn(8, 3, 32, 32), 8, SHARES)
    exits: list[int] = []
    run = runner.engine.run
    runner.engine.run = lambda k, state: (exits.append(runner.engine.num_samples(state)), run(k, state))[1]
    call()
    assert num_batches == 5 and runner.policy is policy
    assert sum(exits) == 16 * 1 + 12 * 2 + 4 * 3 + 8 * 4


def test_policies_are_timed_on_the_same_samples(network: Any) -> None:
    samples = [torch.randn(1, 3, 32, 32) for _ in range(5)]
    ticks = iter(range(100_000))
    runner = DynamicRunner(network, ExitPolicy((0.5, 0.5, 0.5)), clock=lambda: next(ticks) / 1e3)
    before = runner.policy
    policies = [ExitPolicy((0.0, 0.0, 0.0)), ExitPolicy((2.0, 2.0, 2.0))]
    mean_ms, exits = time_policies(runner, samples, policies, repeats=2, chunk=2)
    assert exits.tolist() == [[0] * 5, [3] * 5] and runner.policy is before
    assert mean_ms[1] > mean_ms[0] > 0  # the clock goes on whenever it is looked at, per segment
    with pytest.raises(ValueError, match='5 samples and 0 policies to time'):
        time_policies(runner, samples, [])


def test_exits_stop_where_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments that each call runs; the mix of 40 samples runs those of 16 + 12 * 2 + 4 * 3 + 8 * 4 samples."""
    network, ran = narrow_model('resnet18').float(), {}
    numbers: list[int] = []
    for segment in network.segments:
        segment.register_forward_hook(lambda module, *rest: numbers.append(module.number))

    def fake(calls: dict[str, Any], rounds: int, **options: Any) -> TimingTable:
        for name, call in calls.items():
            numbers.clear()
            call()
            ran[name] = list(numbers)
        return TimingTable({name: np.ones(rounds) for name in calls}, dict.fromkeys(calls, 1))

    monkeypatch.setattr(speed, 'time_calls', fake)
    measure_speed(network, ['torch'], [1], (32, 32), exit_fractions=SHARES)
    assert [ran[f'exit {k}'] for k in (1, 2, 3, 4)] == [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4]]
    assert len(ran['policy']) == 16 + 12 * 2 + 4 * 3 + 8 * 4 and ran['backbone-only baseline'] == []


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(backends=['tensorrt']), "backend 'tensorrt' is unknown; choose among 'torch', 'onnxruntime'"),
        (dict(batch_sizes=(0, 1)), r'batch_sizes=\(0, 1\): pass one or more, each of 1 or more'),
        (dict(exit_fractions=(0.5, 0.5)), 'pass 4 numbers'),
        (dict(num_threads=0), 'num_threads=0: pass 1 or more'),
    ],
)
def test_wrong_numbers_are_named(network: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure_speed(network, **options)


def test_tool_prints_a_table_and_keeps_figures(config: Path, call_tool: Tool, capsys: pytest.CaptureFixture[str]) -> None:
    out = config.with_name('result.json')
    options = [*QUICK, '--exit-fractions', *map(str, SHARES), '--threads', '1', '--out', out]
    call_tool('benchmark', config, config.with_name('weights.pth'), *options)
    text = capsys.readouterr().out
    assert text.startswith('config: 0.') and 'faster than the' in text and f'{out} written' in text
    report = json.loads(out.read_text())
    assert report['image_size'] == [32, 32] and report['config'] == str(config) and ', 1 thread, ' in report['machine']
    assert {(row['backend'], row['batch_size']) for row in report['rows']} == {('torch', 1), ('torch', 4)}
    assert all(0 < row['p10_ms'] <= row['ms'] <= row['p90_ms'] for row in report['rows'])


def test_tool_takes_the_fractions_of_a_policy(config: Path, call_tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, given = config.with_name('policy.json'), {}

    def fake(network: Any, *args: Any, **options: Any) -> Any:
        given.update(options)
        raise ValueError('enough')

    monkeypatch.setattr(speed, 'measure_speed', fake)
    ExitPolicy((0.5, 0.5, 0.5), record=PolicyRecord(expected={'exit_fractions': [0.25, 0.25, 0.1, 0.4]})).save(policy)
    with pytest.raises(ValueError, match='enough'):
        call_tool('benchmark', config, *QUICK, '--policy', policy, '--no-static')
    assert given['exit_fractions'] == pytest.approx((0.25, 0.25, 0.1, 0.4)) and given['static'] is False
    ExitPolicy((0.5, 0.5, 0.5)).save(policy)
    with pytest.raises(SystemExit, match=r'error: the policy does not record how many samples leave at each exit'):
        call_tool('benchmark', config, *QUICK, '--policy', policy)
    ExitPolicy((0.5, 0.5, 0.5), record=PolicyRecord(checkpoint='other', expected={'exit_fractions': SHARES})).save(policy)
    with pytest.raises(SystemExit, match='error: the policy was made for the weights other'):
        call_tool('benchmark', config, config.with_name('weights.pth'), *QUICK, '--policy', policy)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--shape', '1', '2', '3'], r'error: --shape 1 2 3: give one number of pixels for a square'),
        (['--out', 'no/such/folder/a.json'], r'error: --out no/such/folder/a\.json: its folder is missing'),
        (['--policy', 'none.json'], r'error: .*none\.json'),
        (['--cfg-options', 'model.num_classes=None'], 'error: the network was built without exits'),
    ],
)
def test_wrong_command_line_is_named(config: Path, call_tool: Tool, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        call_tool('benchmark', config, *arguments)


def test_config_without_model_or_weights_is_named(tmp_path: Path, config: Path, call_tool: Tool) -> None:
    (tmp_path / 'empty.py').write_text('lr = 1')
    with pytest.raises(SystemExit, match=r'error: .*empty\.py has no model'):
        call_tool('benchmark', tmp_path / 'empty.py')
    with pytest.raises(SystemExit, match=r'error: .*missing'):
        call_tool('benchmark', config, tmp_path / 'none.pth')
