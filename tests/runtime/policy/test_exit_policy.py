"""Exit policies: scores, decisions, and files."""

from __future__ import annotations

import ast
import json
import math
import re
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inference_scores import network_logits

from dynperceiver.calibration.temperature import TEMPERATURES as FITTED
from dynperceiver_runtime import FileError
from dynperceiver_runtime.policy import exit_policy as policies
from dynperceiver_runtime.policy.exit_policy import (
    NEVER,
    SCORES,
    TIE_TOLERANCE,
    ExitPolicy,
    PolicyError,
    PolicyRecord,
    fingerprint_of_arrays,
)
from dynperceiver_runtime.policy.scores import TEMPERATURE_LIMITS, score_samples

POLICY = ExitPolicy((0.5, 0.6, 0.7))
SERVED = ('scores', 'policy_files', 'policies', 'held_out', 'thresholds', 'temperature', 'budget', 'risk_control', 'calibration')


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def _plain_score(score: str, logits_SK: np.ndarray) -> np.ndarray:
    probs_SK = np.sort(_softmax(logits_SK), axis=1)
    if score == 'confidence':
        return np.asarray(probs_SK[:, -1])
    if score == 'margin':
        return np.asarray(probs_SK[:, -1] - (probs_SK[:, -2] if probs_SK.shape[1] > 1 else 0))
    if probs_SK.shape[1] == 1:
        return np.ones(len(probs_SK))
    return np.asarray(1 + (probs_SK * np.log(np.maximum(probs_SK, 1e-300))).sum(1) / math.log(probs_SK.shape[1]))


@pytest.mark.parametrize('num_classes', [1, 2, 10, 1000])
@pytest.mark.parametrize('score', SCORES)
def test_scores(score: str, num_classes: int) -> None:
    logits_SK = (3 * np.random.default_rng(0).standard_normal((600, num_classes))).astype(np.float32)
    logits_SK[0] = 0  # uniform
    logits_SK[1] = np.where(np.arange(num_classes) == 0, 1e30, -3e38)  # sure, and too far apart for float32
    policy = ExitPolicy((0.5,), score, (1.0, 2.0))
    for exit_index, temperature in enumerate((1.0, 2.0)):
        score_S = policy.score_of(exit_index, logits_SK)
        assert score_S.dtype == np.float32
        assert ((score_S >= 0) & (score_S <= 1)).all()
        np.testing.assert_allclose(score_S, _plain_score(score, logits_SK / temperature), atol=3e-6)
        assert score_S[1] == 1
    assert {'confidence': 1 / num_classes, 'margin': 0.0, 'entropy': 0.0}[score] == pytest.approx(score_S[0], abs=2e-6) or num_classes == 1


@pytest.mark.parametrize('score', SCORES)
def test_a_score_does_not_depend_on_the_batch(score: str) -> None:
    logits_SK = network_logits(700, 1000)[0][0]
    policy = ExitPolicy((0.5,), score)
    together_S = policy.score_of(0, logits_SK)
    np.testing.assert_array_equal(together_S, np.concatenate([policy.score_of(0, logits_SK[i : i + 1]) for i in range(700)]))
    np.testing.assert_array_equal(together_S, policy.score_of(0, np.asfortranarray(logits_SK)))
    np.testing.assert_array_equal(together_S, policy.score_of(0, logits_SK.astype(np.float64)))


def test_scores_of_many_samples_take_little_memory() -> None:
    logits_SK = np.zeros((20_000, 500), np.float32)
    tracemalloc.start()
    try:
        POLICY.score_of(0, logits_SK)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < logits_SK.nbytes / 8


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite(value: float) -> None:
    logits_SK = np.zeros((500, 1000), np.float32)
    logits_SK[[300, 450], 7] = value
    match = r'exit 2: the logits of 2 of 500 samples are not finite \(the first is sample 300\).*input of these samples.*have diverged'
    with pytest.raises(ValueError, match=match):
        POLICY.score_of(1, logits_SK)
    with pytest.raises(ValueError, match='the first is sample 1300'):
        POLICY.score_of(1, logits_SK, np.arange(1000, 1500))


def test_temperatures_are_blamed_where_they_are_at_fault() -> None:
    logits_SK = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match=r'temperature 1e-300 of exit 3: temperatures are numbers from 0\.001 to 1000'):
        score_samples(logits_SK, temperature=1e-300, exit_index=2)
    low, high = TEMPERATURE_LIMITS
    assert low < min(FITTED) and max(FITTED) < high
    for score in SCORES:
        far_SK = np.array([[1e30, -3e38, 0], [0, 1, 2]], np.float32)
        for temperature in TEMPERATURE_LIMITS:
            assert ((scores := ExitPolicy((0.5,), score, temperature).score_of(0, far_SK)) >= 0).all() and scores[0] == 1


def test_large_finite_logits_are_fine() -> None:
    assert POLICY.score_of(0, np.full((2, 4), 3e38, np.float32)).tolist() == [0.25, 0.25]  # their sum is not finite


def test_leaves() -> None:
    scores = np.array([0.4, 0.5 - 2 * TIE_TOLERANCE, 0.5 - TIE_TOLERANCE / 2, 0.5, 0.9], np.float64)
    assert POLICY.leaves(0, scores).tolist() == [False, False, True, True, True]
    assert POLICY.leaves(3, scores).all()
    ends = ExitPolicy((0, 1 + 1e-7, 1.0))
    assert ends.leaves(0, np.zeros(2)).all()
    assert not ends.leaves(1, np.ones(2)).any()
    assert ends.leaves(2, np.ones(2)).all()
    with pytest.raises(ValueError, match=r'exit 1: 1 of 2 scores are not finite \(the first is that of sample 1\).*score_of'):
        POLICY.leaves(0, np.array([0.5, np.nan]))
    with pytest.raises(ValueError, match=r'exit_index=4: the policy has 4 exits; pass 0 to 3'):
        POLICY.leaves(4, scores)


@pytest.mark.parametrize('last_exit', [None, 0, 2, 3])
@pytest.mark.parametrize('score', SCORES)
def test_replay(score: str, last_exit: int | None) -> None:
    logits_ESK, _ = network_logits(5000)
    policy = ExitPolicy((0.6, 0.5, 0.55), score, (1.0, 1.5, 0.8, 1.0))
    exit_index_S, score_S = policy.replay(logits_ESK, last_exit)
    score_ES = np.stack([policy.score_of(k, logits_ESK[k]) for k in range(4)])
    last = 3 if last_exit is None else last_exit
    expected = [next((k for k in range(last) if s[k] >= policy.thresholds[k] - 1e-6), last) for s in score_ES.T]
    assert exit_index_S.dtype == np.int64
    assert exit_index_S.tolist() == expected
    assert len(set(expected)) == last + 1
    np.testing.assert_array_equal(score_S, score_ES[exit_index_S, np.arange(5000)])
    np.testing.assert_array_equal(policy.replay_scores(score_ES, last_exit), exit_index_S)
    np.testing.assert_array_equal(policy.replay(list(logits_ESK[: last + 1]), last_exit)[0], exit_index_S)


def test_replay_looks_at_no_exit_behind_the_samples() -> None:
    logits_ESK = np.zeros((4, 6, 3), np.float32)
    logits_ESK[0, :3, 0] = 9  # these leave at exit 1
    logits_ESK[1:, :3] = np.nan
    assert POLICY.replay(logits_ESK)[0].tolist() == [0, 0, 0, 3, 3, 3]
    logits_ESK[2, 4] = np.nan
    with pytest.raises(ValueError, match=r'exit 3: the logits of 1 of 3 samples are not finite \(the first is sample 4\)'):
        POLICY.replay(logits_ESK)
    assert POLICY.replay(logits_ESK, last_exit=1)[0].tolist() == [0, 0, 0, 1, 1, 1]


def test_replay_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match='logits of 3 exits do not go with a policy for 4; pass one array per exit'):
        POLICY.replay(np.zeros((3, 2, 5)))
    with pytest.raises(ValueError, match=r'\(2, 5\), \(2, 5\), \(2, 5\), \(3, 5\) do not belong together'):
        POLICY.replay([*np.zeros((3, 2, 5)), np.zeros((3, 5))])
    with pytest.raises(ValueError, match=r'pass an array of shape \(exits, samples\)'):
        POLICY.replay_scores(np.zeros(4))
    with pytest.raises(ValueError, match=r'exit 1: logits of shape \(5,\) have no score'):
        POLICY.score_of(0, np.zeros(5))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'thresholds': ()}, 'is empty; pass one per exit but the last'),
        ({'thresholds': 0.5}, 'thresholds=0.5 is no sequence'),
        ({'thresholds': ('a',)}, r"thresholds=\('a',\) are not all numbers"),
        ({'thresholds': (0.5, np.nan)}, r'threshold nan of exit 2: .*set 2\.0'),
        ({'thresholds': (np.inf,)}, r'threshold inf of exit 1: .*to let nobody leave, set 2\.0'),
        ({'thresholds': (-0.1,)}, r'threshold -0\.1 of exit 1: .*0 \(all leave\) or more'),
        ({'thresholds': (0.5,), 'score': 'x'}, "score='x' is unknown; choose one of confidence, margin, entropy"),
        ({'thresholds': (0.5, 10**400)}, 'thresholds has a whole number of more than 308 digits, which no float holds; pass one per exit'),
        ({'thresholds': (0.5,), 'temperature': 10**400}, 'temperature has a whole number of more than 308 digits'),
        ({'thresholds': (0.5,), 'temperature': 0}, 'temperature 0.0 of exit 1: temperatures are numbers from 0.001 to 1000; 1.0 '),
        ({'thresholds': (0.5,), 'temperature': (1, 1e-300)}, 'temperature 1e-300 of exit 2: .*tools/calibrate.py --fit-temperature'),
        ({'thresholds': (0.5,), 'temperature': 9.9e-4}, 'temperature 0.00099 of exit 1'),
        ({'thresholds': (0.5,), 'temperature': (1001, 1)}, r'temperature 1001\.0 of exit 1'),
        ({'thresholds': (0.5,), 'temperature': np.inf}, 'temperature inf of exit 1'),
        ({'thresholds': (0.5,), 'temperature': (1, np.nan)}, 'temperature nan of exit 2'),
        ({'thresholds': (0.5,), 'temperature': (1, 1, 1)}, '3 temperatures do not go with 2 exits'),
        ({'thresholds': (0.5,), 'record': PolicyRecord(cost_ms=(1, 2, 3))}, '3 cost_ms for 2 exits'),
    ],
)
def test_policies_that_mean_nothing(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExitPolicy(**arguments)


def test_policy_keeps_tuples_of_floats() -> None:
    policy = ExitPolicy(np.float32([0.1, 0.2]), temperature=2)  # type: ignore[arg-type]
    assert policy.thresholds == (float(np.float32(0.1)), float(np.float32(0.2)))
    assert policy.temperature == policy.temperatures == (2.0, 2.0, 2.0)
    assert policy.num_exits == 3
    assert policy == ExitPolicy(list(policy.thresholds), temperature=[2, 2, 2])  # type: ignore[arg-type]
    assert hash(policy) == hash(ExitPolicy(policy.thresholds, temperature=2, record=PolicyRecord(num_samples=3)))


def _recorded() -> ExitPolicy:
    record = PolicyRecord(
        'sha256:a', 'sha256:b', 300, {'exit_fractions': (0.1, np.float32(0.2))}, (0.1, 1 / 3, 0.5, 1), np.array([1, 2, 3, 4.5]), 'Rüdiger',
        {'accuracy': 0.1 + 0.2, 'exit_fractions': np.array([0.5, 0.5])},
    )  # fmt: skip
    return ExitPolicy((1 / 3, 0.1 + 0.2, NEVER), 'margin', (1, math.pi, 0.1 + 0.2, 1e3), record)


def test_files_are_exact(tmp_path: Path) -> None:
    for policy in (_recorded(), POLICY):
        policy.save(tmp_path / 'policy.json')
        assert ExitPolicy.load(tmp_path / 'policy.json') == policy
        assert [path.name for path in tmp_path.iterdir()] == ['policy.json']
    content = json.loads((tmp_path / 'policy.json').read_text())
    assert (content['format'], content['version'], content['record']) == ('dynperceiver exit policy', 1, None)


def test_a_failing_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'policy.json'
    POLICY.save(path)
    monkeypatch.setattr('os.fsync', lambda _: (_ for _ in ()).throw(OSError('disk full')))
    message = rf'^policy {re.escape(str(path))} cannot be written \(disk full\); choose a place that you may write to, with space left$'
    with pytest.raises(FileError, match=message):
        _recorded().save(path)
    assert ExitPolicy.load(path) == POLICY
    assert [entry.name for entry in tmp_path.iterdir()] == ['policy.json']
    with pytest.raises(FileNotFoundError, match=r'the folder .* is missing; make it first'):
        POLICY.save(tmp_path / 'none' / 'policy.json')


def test_a_policy_that_cannot_be_written_is_named_by_its_users_name(tmp_path: Path) -> None:
    (tmp_path / 'folder').mkdir()
    for name, reason in (('folder', ': it is a folder; '), ('x' * 300, r' \(File name too long\)')):
        with pytest.raises(FileError, match=rf'^policy .*{name} cannot be written{reason}') as caught:
            POLICY.save(tmp_path / name)
        assert f'.{name}.' not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ['folder']


def _edited(**changes: Any) -> str:
    content = {'format': 'dynperceiver exit policy', 'version': 1, 'score': 'margin', 'thresholds': [0.5], 'temperature': [1, 1]}
    content = {**content, 'record': None, **changes}
    return json.dumps({name: value for name, value in content.items() if value != 'DROPPED'})


RECORD = {name: None for name in ('checkpoint', 'calibration_set', 'num_samples', 'cost_gflops', 'cost_ms', 'machine')}
RECORD = {**RECORD, 'solved_for': {}, 'expected': {}}


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{', 'is not the JSON of a policy'),
        ('[1]', 'is no policy: "format" must be'),
        (_edited(format='x'), 'is no policy: "format" must be'),
        (_edited(version=2), 'a policy of version 2, and this package reads version 1'),
        (_edited(version=True), 'a policy of version True'),
        (_edited(thresholds=[float('inf')]), 'it holds Infinity, which is no number of JSON'),
        (_edited(thresholds=[float('nan')]), 'it holds NaN'),
        (_edited(thresholds=[0.5]).replace('0.5', '1e999'), r'threshold inf of exit 1'),
        (_edited(thresholds=[10**400]), 'thresholds has a whole number of more than 308 digits'),
        (_edited(temperature=[1, 10**400]), 'temperature has a whole number of more than 308 digits'),
        (_edited(temperature=[1, 1e-300]), 'temperature 1e-300 of exit 2: temperatures are numbers from 0.001'),
        (_edited(record={**RECORD, 'cost_ms': [1, 10**400]}), 'record of the policy has cost_ms of more than 308 digits'),
        (_edited(record={**RECORD, 'expected': {'accuracy': -(10**400)}}), r"has expected\['accuracy'\] of more than 308 digits"),
        (_edited(thresholds=['0.5']), 'a list of numbers belongs'),
        (_edited(thresholds=[True]), 'a list of numbers belongs'),
        (_edited(temperature=1), 'a list of numbers belongs'),
        (_edited(score=1), 'a name belongs'),
        (_edited(score='y'), "score='y' is unknown"),
        (_edited(score='DROPPED', more=1), 'fields: score missing; more unknown. Rule: exactly format, version, score'),
        (_edited(record=1), '"record" is 1, where an object or null belongs'),
        (_edited(record={**RECORD, 'x': 1}), 'fields of the record: x unknown'),
        (_edited(record={**RECORD, 'checkpoint': 1}), 'checkpoint=1, where a string or null belongs'),
        (_edited(record={**RECORD, 'num_samples': 1.5}), 'num_samples=1.5, where a whole number or null belongs'),
        (_edited(record={**RECORD, 'cost_ms': [1, 'x']}), 'where a list of numbers or null belongs'),
        (_edited(record={**RECORD, 'expected': []}), 'where an object with names belongs'),
        (_edited(record={**RECORD, 'cost_ms': [1, 2, 3]}), '3 cost_ms for 2 exits'),
    ],
)
def test_files_that_are_no_policies(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / 'policy.json'
    path.write_text(_edited(record=RECORD))
    ExitPolicy.load(path)
    path.write_text(text)
    with pytest.raises(PolicyError, match=message) as error:
        ExitPolicy.load(path)
    assert str(path) in str(error.value)
    assert 'tools/calibrate.py' in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r'none\.json is missing; check the path, or make it with tools/calibrate\.py'):
        ExitPolicy.load(tmp_path / 'none.json')
    with pytest.raises(PolicyError, match='cannot be read'):
        ExitPolicy.load(tmp_path)
    (tmp_path / 'x').write_bytes(b'\xff\xfe\x00')
    with pytest.raises(PolicyError, match='is not the JSON of a policy'):
        ExitPolicy.load(tmp_path / 'x')


def test_a_record_takes_plain_values_alone() -> None:
    with pytest.raises(PolicyError, match=r"expected\['accuracy'\]=nan; record finite numbers alone"):
        PolicyRecord(expected={'accuracy': math.nan})
    with pytest.raises(PolicyError, match=r"solved_for\['x'\] of type object, which JSON has not"):
        PolicyRecord(solved_for={'x': object()})


def test_a_policy_belongs_to_its_weights(tmp_path: Path) -> None:
    path = tmp_path / 'policy.json'
    _recorded().save(path)
    assert ExitPolicy.load(path, checkpoint='sha256:a') == _recorded()
    with pytest.raises(PolicyError, match=r'policy\.json: .*weights sha256:a, and the checkpoint has sha256:c.*tools/calibrate\.py'):
        ExitPolicy.load(path, checkpoint='sha256:c')
    with pytest.raises(PolicyError, match=r'and model\.pth has sha256:c'):
        _recorded().check_checkpoint('sha256:c', source='model.pth')
    POLICY.check_checkpoint('sha256:c')
    ExitPolicy((0.5,), record=PolicyRecord()).check_checkpoint('sha256:c')


def test_fingerprints() -> None:
    items = {'a': np.arange(6.0, dtype=np.float32).reshape(2, 3), 'b': np.zeros(0, np.int64), 'c': np.float64(3)}
    original = fingerprint_of_arrays(items.items())
    assert original.startswith('sha256:')
    assert len(original) == 71
    a = items['a']
    same = [('b', items['b']), ('c', items['c']), ('a', np.asfortranarray(a))]
    assert fingerprint_of_arrays(same) == original
    assert fingerprint_of_arrays({**items, 'a': a.astype('>f4')}.items()) == original
    for change in (a.reshape(3, 2), a.astype(np.float64), a.view(np.int32), a + np.float32([[0, 0, 0], [0, 0, 1e-6]]), -a):
        assert fingerprint_of_arrays({**items, 'a': change}.items()) != original
    assert fingerprint_of_arrays([('x', a)]) != fingerprint_of_arrays([('y', a)])
    with pytest.raises(ValueError, match="'x' comes twice"):
        fingerprint_of_arrays([('x', a), ('x', a)])
    with pytest.raises(ValueError, match='0 arrays have no fingerprint'):
        fingerprint_of_arrays([])
    with pytest.raises(ValueError, match='Python objects'):
        fingerprint_of_arrays([('x', np.array([None]))])


@pytest.mark.parametrize('name', SERVED)
def test_a_serving_machine_needs_numpy_alone(name: str) -> None:
    """Absolute imports are numpy's and the standard library's, relative ones stay among these modules."""
    tree = ast.parse((Path(policies.__file__).parent / f'{name}.py').read_text(encoding='utf-8'))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert {alias.name.split('.')[0] for alias in node.names} <= {'numpy', *sys.stdlib_module_names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1
            assert node.module in SERVED
        elif isinstance(node, ast.ImportFrom):
            assert str(node.module).split('.')[0] in {'numpy', *sys.stdlib_module_names}
