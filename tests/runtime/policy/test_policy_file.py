"""Policies as files, their records, and fingerprints."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynperceiver_runtime.policy import NEVER, ExitPolicy, PolicyError, PolicyRecord, fingerprint_of_arrays

POLICY = ExitPolicy((0.5, 0.6, 0.7))


def _recorded() -> ExitPolicy:
    record = PolicyRecord(
        'sha256:a', 'sha256:b', 300, {'exit_fractions': (0.1, np.float32(0.2))}, (0.1, 1 / 3, 0.5, 1), np.array([1, 2, 3, 4.5]), 'Rüdiger',
        {'accuracy': 0.1 + 0.2, 'exit_fractions': np.array([0.5, 0.5])},
    )  # fmt: skip
    log_odds = (math.log(0.5) - 1e-6, 40 + 1 / 3, math.inf)
    return ExitPolicy((1 / 3, 1.0, NEVER), 'margin', (1, math.pi, 0.1 + 0.2, 1e3), record, log_odds)


def test_files_are_exact(tmp_path: Path) -> None:
    tiny, old = ExitPolicy((0, 1e-300), log_odds=(-math.inf, -690.78)), ExitPolicy((0.1 + 0.2,), scale='probability')
    for policy in (_recorded(), POLICY, tiny, old):
        policy.save(tmp_path / 'policy.json')
        assert ExitPolicy.load(tmp_path / 'policy.json') == policy
        assert [path.name for path in tmp_path.iterdir()] == ['policy.json']
        content = json.loads((tmp_path / 'policy.json').read_text())
        assert (content['format'], content['version']) == ('dynperceiver exit policy', 1 if policy.scale == 'probability' else 2)
        log_odds = [] if policy.scale == 'probability' else ['log_odds']
        assert list(content) == ['format', 'version', 'score', 'thresholds', *log_odds, 'temperature', 'record']
    _recorded().save(tmp_path / 'policy.json')
    assert '"log_odds": [\n    -0.6931481805599453,\n    40.333333333333336,\n    null\n  ]' in (tmp_path / 'policy.json').read_text()


VERSION_1 = """{
  "format": "dynperceiver exit policy",
  "version": 1,
  "score": "confidence",
  "thresholds": [
    1.0,
    0.6,
    0.0,
    2.0
  ],
  "temperature": [
    1.0,
    2.0,
    1.0,
    1.0,
    1.0
  ],
  "record": {
    "checkpoint": null,
    "calibration_set": null,
    "num_samples": 7,
    "solved_for": {
      "exit_fractions": [
        0.4,
        0.3,
        0.3,
        0.0,
        0.0
      ]
    },
    "cost_gflops": null,
    "cost_ms": null,
    "machine": null,
    "expected": {
      "exit_shares": [
        0.4,
        0.3,
        0.3,
        0.0,
        0.0
      ]
    }
  }
}
"""


def test_files_of_version_1_decide_as_they_did(tmp_path: Path) -> None:
    """By the score in float32, which may lie 0.000005 below the threshold; and such a policy is saved as it was."""
    path = tmp_path / 'old.json'
    path.write_text(VERSION_1)
    policy = ExitPolicy.load(path)
    assert policy.thresholds == (1.0, 0.6, 0.0, 2.0) and policy.record is not None
    assert policy.record.expected == {'exit_fractions': [0.4, 0.3, 0.3, 0.0, 0.0]}
    logits_ESK = np.zeros((5, 7, 2), np.float32)
    chances = [1 - 1e-9, 1 - 4.5e-6, 1 - 5.5e-6, 0.9, 0.9, 0.9, 0.9]  # at exit 1
    logits_ESK[0, :, 0] = np.log(chances) - np.log1p(-np.array(chances))
    later = [0.5, 0.5, 0.7, 0.6, 0.6 - 4.5e-6, 0.6 - 5.5e-6, 0.5]  # at exit 2, at temperature 2
    logits_ESK[1, :, 0] = 2 * (np.log(later) - np.log1p(-np.array(later)))
    exit_S, score_S = policy.replay(logits_ESK)
    assert exit_S.tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert score_S.tolist() == pytest.approx([1, 1, 0.7, 0.6, 0.6, 0.5, 0.5], abs=6e-6)
    assert policy.replay_scores(np.array([[0.5, 1 - 4.5e-6], [0.5, 0.7], [0, 0], [1, 1], [1, 1]])).tolist() == [2, 0]
    policy.save(path)
    assert path.read_text() == VERSION_1


def test_a_figure_under_its_old_name_is_read() -> None:
    assert PolicyRecord(expected={'exit_shares': (0.5, 0.5), 'accuracy': 1}).expected == {'exit_fractions': [0.5, 0.5], 'accuracy': 1}


def test_a_failing_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'policy.json'
    POLICY.save(path)
    monkeypatch.setattr('os.fsync', lambda _: (_ for _ in ()).throw(OSError('disk full')))
    message = rf'^policy {re.escape(str(path))} cannot be written \(disk full\); choose a place that you may write to, with space left$'
    with pytest.raises(PolicyError, match=message) as caught:
        _recorded().save(path)
    assert '.tmp' not in str(caught.value)
    assert ExitPolicy.load(path) == POLICY
    assert [entry.name for entry in tmp_path.iterdir()] == ['policy.json']
    with pytest.raises(FileNotFoundError, match=r'the folder .* is missing; make it first'):
        POLICY.save(tmp_path / 'none' / 'policy.json')


def test_a_policy_that_cannot_be_written_is_named_by_its_users_name(tmp_path: Path) -> None:
    (tmp_path / 'folder').mkdir()
    for name, reason in (('folder', ': it is a folder; '), ('x' * 300, r' \(File name too long\)')):
        with pytest.raises(PolicyError, match=rf'^policy .*{name} cannot be written{reason}') as caught:
            POLICY.save(tmp_path / name)
        assert f'.{name}.' not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ['folder']


def _edited(version: Any = 2, **changes: Any) -> str:
    content = {'format': 'dynperceiver exit policy', 'version': version, 'score': 'margin', 'thresholds': [0.5]}
    content |= {'temperature': [1, 1], 'record': None} | ({} if version == 1 else {'log_odds': None}) | changes
    return json.dumps({name: value for name, value in content.items() if value != 'DROPPED'})


RECORD = {name: None for name in ('checkpoint', 'calibration_set', 'num_samples', 'cost_gflops', 'cost_ms', 'machine')}
RECORD = {**RECORD, 'solved_for': {}, 'expected': {}}


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{', 'is not the JSON of a policy'),
        ('[1]', 'is no policy: "format" must be'),
        (_edited(format='x'), 'is no policy: "format" must be'),
        (_edited(version=3), 'a policy of version 3, and this package reads versions 1 and 2; update this package if the file is newer'),
        (_edited(version=3, more=1), 'a policy of version 3, and this package reads'),
        *((_edited(version=version), f'a policy of version {version!r}') for version in (True, 0, 2.0, '2', None)),
        (_edited(version=[2]), r'a policy of version \[2\]'),
        (_edited(log_odds=[0, 0]), r'"log_odds" is \[0, 0\], where null or a list of a number or null for each of the 1 threshold'),
        (_edited(log_odds=['x']), 'where null or a list of a number or null'),
        (_edited(log_odds=[True]), 'where null or a list of a number or null'),
        (_edited(log_odds=0.5), 'where null or a list of a number or null'),
        (_edited(log_odds=[0.5]), r'log_odds 0\.5 of exit 1 are not those of its threshold 0\.5'),
        (_edited(log_odds=[None]), r'log_odds -inf of exit 1 are not those of its threshold 0\.5'),
        (_edited(log_odds=[10**400]), 'log_odds has a whole number of more than 308 digits'),
        (_edited(version=1, log_odds=[0.0]), 'fields: log_odds unknown'),
        (_edited(log_odds='DROPPED'), 'fields: log_odds missing'),
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
        (_edited(score='DROPPED', more=1), 'fields: score missing; more unknown. expected are exactly format, version, score'),
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
    for version in (1, 2):
        path.write_text(_edited(version, record=RECORD))
        assert ExitPolicy.load(path).thresholds == (0.5,)
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
