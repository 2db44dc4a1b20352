"""tools/test.py --exit-policy on tiny images and clips: exits as replayed, its figures, backends, two processes, and what is refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_action
import torch
from classification_runs import make_digits, write_classification_config
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from tool_runs import event_tags, finish, free_port, result_of_test, run_here, start, write_quick_config
from torch import nn

from dynperceiver.analysis import count_exit_costs
from dynperceiver.checkpoint import CheckpointError
from dynperceiver.deployment.fingerprints import fingerprint_of_network
from dynperceiver.inference import ExitPolicy, PolicyRecord
from dynperceiver.launch import UsageError, parse_test_args
from dynperceiver.launch import test_config as config_of_test  # under its own name pytest would take it for a test

POLICY = ExitPolicy((0.5, 0.5, 0.5))
TIMES = {f'dynamic/{name}_ms' for name in ('mean', 'median', 'p95')}


def save_random_weights(config: Path, checkpoint: Path) -> nn.Module:
    """Save a checkpoint for a config; returns its network."""
    cfg = Config.fromfile(config, format_python_code=False)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(1)
    model = MODELS.build(cfg.model)
    for name, parameter in model.backbone.named_parameters():
        if name.startswith('exits.') and name.endswith('weight') and parameter.shape[0] == model.backbone.num_classes:
            parameter.data.mul_(20)  # so that scores differ by more than rounding
    torch.save({'state_dict': model.state_dict()}, checkpoint)
    network: nn.Module = model.backbone.eval()
    return network


class Task:
    """A task's tiny data, config, checkpoint, and a policy by which samples of the test leave at exits 1, 2 and 4.

    Attributes:
        samples: Predictions of a test without a policy.
        exit_S: Where each sample leaves by the policy.
    """

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir()
        self.folder = folder
        if name == 'action':
            plain = tiny_action.write_config(folder / 'tiny.py', tiny_action.make_clips(folder / 'data', num_train=8, num_val=7))
        else:
            plain = write_classification_config(folder / 'tiny.py', make_digits(folder / 'data'))
        self.config = write_quick_config(folder / 'quick.py', plain)
        self.checkpoint, self.policy = folder / 'some.pth', folder / 'policy.json'
        self.network = save_random_weights(self.config, self.checkpoint)
        self.samples = self.kept('full')
        self.logits_ESK = np.log(np.stack([sample['exit_scores'].numpy() for sample in self.samples], 1))
        thresholds: list[float] = []
        left_SK = self.logits_ESK
        for exit_index in (0, 1):
            falling_S = np.sort(POLICY.score_of(exit_index, left_SK[exit_index]).astype(float))[::-1]
            assert falling_S[1] - falling_S[2] > 1e-4
            thresholds.append(float(falling_S[1:3].mean()))
            left_SK = left_SK[:, POLICY.score_of(exit_index, left_SK[exit_index]) < thresholds[-1]]
        self.fingerprint = fingerprint_of_network(self.network)
        record = PolicyRecord(checkpoint=self.fingerprint, expected={'accuracy': 0.5, 'exit_fractions': [0.3, 0.3, 0, 0.4]})
        ExitPolicy((*thresholds, 2.0), record=record).save(self.policy)
        self.exit_S, self.score_S = ExitPolicy.load(self.policy).replay(self.logits_ESK)

    def test(self, name: str, *flags: str | Path, config: Path | None = None, checkpoint: Path | None = None) -> Path:
        """Test within this process; returns the work dir."""
        run_here('tools/test.py', config or self.config, checkpoint or self.checkpoint, '--work-dir', self.folder / name, *flags)
        return self.folder / name

    def kept(self, name: str, *flags: str | Path) -> list[dict[str, Any]]:
        """Predictions of a test."""
        path = self.folder / f'{name}.pkl'
        self.test(name, '--out', path, *flags)
        with path.open('rb') as file:
            samples: list[dict[str, Any]] = pickle.load(file)
        return samples

    def refused(self, *flags: str | Path, **arguments: Any) -> str:
        """Message of a test that ends with exit code 1."""
        with pytest.raises(SystemExit) as caught:
            self.test('refused', *flags, **arguments)
        message = str(caught.value.code)
        assert message.startswith('error: ') and '\n' not in message
        return message


def result_of_json(work_dir: Path) -> dict[str, float]:
    """Figures of the one test in a work dir, with times."""
    (path,) = work_dir.glob('*/*.json')
    found: dict[str, float] = json.loads(path.read_text())
    return found


@pytest.fixture(scope='module')
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Task]]:
    """Both tasks."""
    folder = tmp_path_factory.mktemp('tasks')
    yield {name: Task(folder / name, name) for name in ('classification', 'action')}


@pytest.mark.parametrize('name', ['classification', 'action'])
def test_samples_leave_as_replayed_and_figures_are_of_that_test(tasks: dict[str, Task], name: str) -> None:
    task = tasks[name]
    samples, num_samples = task.kept('dynamic', '--exit-policy', task.policy), len(task.samples)
    assert np.bincount(task.exit_S).tolist() == [2, 2, 0, num_samples - 4]
    assert [sample['exit_index'] for sample in samples] == task.exit_S.tolist()
    assert [sample['exit_confidence'] for sample in samples] == pytest.approx(task.score_S.tolist(), abs=1e-3)
    for sample, full, exit_index in zip(samples, task.samples, task.exit_S, strict=True):
        torch.testing.assert_close(sample['pred_score'], full['exit_scores'][exit_index], rtol=1e-2, atol=1e-3)
        assert 'exit_scores' not in sample and int(sample['gt_label']) == int(full['gt_label'])
    (log,) = (task.folder / 'dynamic').glob('*/*.log')
    text = log.read_text()
    assert f'dynamic inference on {num_samples} samples (torch, batch size 4)' in text and 'expected' in text
    found = {key: value for key, value in result_of_json(task.folder / 'dynamic').items() if key.startswith('dynamic/')}
    hits_S = np.array([int(sample['pred_score'].argmax()) == int(sample['gt_label']) for sample in samples])
    costs = np.array([cost.cost_gmacs for cost in count_exit_costs(task.network, 32, 32)])
    assert set(found) == TIMES | {
        'dynamic/top1', 'dynamic/top5', 'dynamic/mean_gflops', 'dynamic/batch_size', *(f'dynamic/exit{k}_fraction' for k in (1, 2, 3, 4)),
        *(f'dynamic/exit{k}_top1' for k in (1, 2, 4)),
    }  # fmt: skip
    assert found['dynamic/top1'] == pytest.approx(hits_S.mean())
    assert [found[f'dynamic/exit{k}_fraction'] for k in (1, 2, 3, 4)] == pytest.approx((np.bincount(task.exit_S) / num_samples).tolist())
    assert found['dynamic/mean_gflops'] == pytest.approx(costs[task.exit_S].mean())
    assert 0 < found['dynamic/median_ms'] <= found['dynamic/p95_ms'] < 10_000
    assert {'test/dynamic/top1', 'test/dynamic/mean_gflops', 'test/dynamic/p95_ms'} <= event_tags(task.folder / 'dynamic')


@pytest.mark.parametrize('name', ['classification', 'action'])
def test_exits_can_be_capped_and_batches_be_of_one_sample(tasks: dict[str, Task], name: str) -> None:
    task = tasks[name]
    flags = ['--max-exit', '2', '--cfg-options', 'test_dataloader.batch_size=1']
    samples = task.kept('capped', '--exit-policy', task.policy, *flags)
    assert [sample['exit_index'] for sample in samples] == np.minimum(task.exit_S, 1).tolist()
    assert result_of_json(task.folder / 'capped')['dynamic/batch_size'] == 1


@pytest.mark.slow
def test_onnx_runtime_leaves_at_the_same_exits(tasks: dict[str, Task]) -> None:
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    task = tasks['classification']
    samples = task.kept('exported', '--exit-policy', task.policy, '--exit-backend', 'onnxruntime')
    assert [sample['exit_index'] for sample in samples] == task.exit_S.tolist()
    for sample, full, exit_index in zip(samples, task.samples, task.exit_S, strict=True):
        torch.testing.assert_close(sample['pred_score'], full['exit_scores'][exit_index], rtol=1e-2, atol=1e-3)
    (log,) = (task.folder / 'exported').glob('*/*.log')
    assert '(onnxruntime, batch size 4)' in log.read_text()


def test_two_processes_measure_all_samples_once(tasks: dict[str, Task]) -> None:
    """Eleven images, which two processes cannot share evenly."""
    task = tasks['classification']
    folder = task.folder / 'two'
    command = ['tools/dist_test.sh', task.config, task.checkpoint, '2', '--work-dir', folder, '--exit-policy', task.policy]
    finish(start(command, python=False, PORT=free_port()))
    found = {key: value for key, value in result_of_test(folder).items() if not key.endswith('_ms')}
    alone = task.test('one', '--exit-policy', task.policy)
    assert found == pytest.approx({key: value for key, value in result_of_test(alone).items() if not key.endswith('_ms')})
    (log,) = folder.glob('*/*.log')
    assert log.read_text().count('dynamic inference on 11 samples') == 1


def test_policy_of_another_checkpoint_is_refused_with_both_fingerprints(tasks: dict[str, Task]) -> None:
    task, other = tasks['classification'], tasks['action']
    message = task.refused('--exit-policy', other.policy)
    assert f'the policy was made for the weights {other.fingerprint}, and the checkpoint has {task.fingerprint}' in message


def test_policies_that_cannot_be_used_are_refused(tasks: dict[str, Task], tmp_path: Path) -> None:
    task = tasks['classification']
    message = task.refused('--exit-policy', tmp_path / 'none.json')
    assert message == f'error: policy {tmp_path / "none.json"} is missing; check the path, or make it with tools/calibrate.py'
    (tmp_path / 'cut.json').write_text(task.policy.read_text()[:-9])
    assert 'cut.json is not the JSON of a policy' in task.refused('--exit-policy', tmp_path / 'cut.json')
    ExitPolicy((0.5, 0.5)).save(tmp_path / 'three.json')
    assert '3 exits, but the network has 4 exits; pass 3 thresholds' in task.refused('--exit-policy', tmp_path / 'three.json')


STATIC = """\
_base_ = ['{base}']
model = dict(backbone=dict(_delete_=True, type='dynperceiver.StaticTrunk', feature_branch='resnet18', width=0.125, num_classes=10),
             loss=dict(exit_weights=(1,)))
"""


def test_models_without_exits_are_refused(tasks: dict[str, Task], tmp_path: Path) -> None:
    task, config, checkpoint = tasks['classification'], tmp_path / 'static.py', tmp_path / 'static.pth'
    config.write_text(STATIC.format(base=task.config))
    save_random_weights(config, checkpoint)
    message = task.refused('--exit-policy', task.policy, config=config, checkpoint=checkpoint)
    assert 'DynPerceiverClassifier holds no DynPerceiver; early exits need one as its backbone' in message


def test_refusal_has_no_traceback(tasks: dict[str, Task], tmp_path: Path) -> None:
    task = tasks['classification']
    command = ['tools/test.py', task.config, task.checkpoint, '--exit-policy', tmp_path / 'none.json']
    _, err = finish(start(command), code=1)
    assert 'Traceback' not in err and 'none.json is missing' in err.splitlines()[-1]


@pytest.fixture
def merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Function that gives the config of a test with such flags; the policy is ``policy``."""
    monkeypatch.setenv('LOCAL_RANK', '0')
    (tmp_path / 'some.pth').touch()
    POLICY.save(tmp_path / 'policy.json')

    def merge(*flags: str, policy: bool = True, config: str | Path = tiny_action.DEMO_CONFIG) -> Config:
        given = ['--exit-policy', str(tmp_path / 'policy.json')] if policy else []
        return config_of_test(parse_test_args([str(config), str(tmp_path / 'some.pth'), *given, *flags]))

    return merge


def test_flags_become_a_hook_and_a_metric(merged: Any, tmp_path: Path) -> None:
    plain, cfg = merged(policy=False), merged()
    hook = dict(type='dynperceiver.ExitPolicyHook', policy=str(tmp_path / 'policy.json'), backend='torch', max_exit=None)
    assert cfg.custom_hooks == [*plain.custom_hooks, hook]
    assert cfg.test_evaluator == dict(type='dynperceiver.DynamicAccuracy') and cfg.val_evaluator == plain.val_evaluator
    assert all('ExitPolicyHook' not in hook.type for hook in plain.custom_hooks)
    cfg = merged('--exit-backend', 'onnxruntime', '--max-exit', '1', '--out', 'o.pkl', '--cfg-options', 'custom_hooks=None')
    assert cfg.custom_hooks == [dict(hook, backend='onnxruntime', max_exit=0)]
    assert [metric.type for metric in cfg.test_evaluator] == ['dynperceiver.DynamicAccuracy', 'mmengine.DumpResults']


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--tta'], '--tta averages the scores of all exits, and --exit-policy does not compute all of them; leave one of the two out'),
        (['--show'], '--show draws the predictions of all exits, and --exit-policy does not compute all of them; draw in a test without'),
        (['--show-dir', 'x'], '--show-dir draws the predictions of all exits'),
        (['--max-exit', '0'], '--max-exit 0: the policy has 4 exits; pass 1 to 4, or leave it out'),
        (['--max-exit', '5'], '--max-exit 5: the policy has 4 exits'),
    ],
)
def test_flags_that_do_not_go_together_are_refused(merged: Any, flags: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        merged(*flags)


@pytest.mark.parametrize('flags', [['--max-exit', '2'], ['--exit-backend', 'torch']])
def test_flags_of_dynamic_inference_need_a_policy(merged: Any, flags: list[str]) -> None:
    with pytest.raises(UsageError, match=rf'{flags[0]} {flags[1]} only applies to dynamic inference; add --exit-policy POLICY\.json'):
        merged(*flags, policy=False)


@pytest.mark.parametrize('text', ["default_scope = 'mmdet'", "model = dict(type='mmdet.RetinaNet')"])
def test_detectors_are_refused(merged: Any, tmp_path: Path, text: str) -> None:
    (tmp_path / 'detection.py').write_text(f'{text}\ntest_dataloader = dict()\n')
    with pytest.raises(UsageError, match=r'detectors have no exits and always run the whole network; .* is for action recognition'):
        merged(config=tmp_path / 'detection.py')


def test_policy_is_read_before_anything_else(merged: Any, tmp_path: Path) -> None:
    (tmp_path / 'policy.json').unlink()
    with pytest.raises(CheckpointError, match=r'policy .*policy\.json is missing'):
        merged(config='none.py')


def test_help_says_how_to_measure_latencies(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_test_args(['--help'])
    text = ' '.join(capsys.readouterr().out.split())
    assert '--exit-policy POLICY.json' in text and '--cfg-options test_dataloader.batch_size=1' in text
