"""Tests with an exit policy in a real runner: whose weights, what is measured, what really runs, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from core_models import narrow_model
from mmengine.hooks import Hook
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from dynperceiver.analysis import count_exit_costs
from dynperceiver.checkpoint import CheckpointError
from dynperceiver.deployment.fingerprints import fingerprint_of_network
from dynperceiver.hooks import ExitPolicyHook, TimedRunner, read_exit_policy
from dynperceiver.inference import ExitPolicy, PolicyRecord
from dynperceiver.metrics import DynamicAccuracy

SIZE = (32, 40)
NUM_IMAGES = 7
THRESHOLDS = (0.5, 0.9, 0.9)
NUMBERS = count()


class Model(BaseModel):
    """A network with what the hook needs."""

    dynamic_runner: Any = None

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.backbone = network
        self.seen: list[TimedRunner] = []

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'tensor') -> list[BaseDataElement]:
        self.seen.append(self.dynamic_runner)
        result = self.dynamic_runner(torch.stack(inputs))
        for number, one in enumerate(data_samples):
            one.set_field(torch.as_tensor(result.logits[number]).softmax(0), 'pred_score')
            one.set_field(int(result.exit_index[number]), 'exit_index')
        return list(data_samples)


class Images(torch.utils.data.Dataset):
    def __init__(self) -> None:
        self.images = torch.randn(NUM_IMAGES, 3, *SIZE, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return NUM_IMAGES

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {'inputs': self.images[index], 'data_samples': BaseDataElement(gt_label=index % 5)}


def network() -> Any:
    return narrow_model(dtype=torch.float32)


def runner_of(folder: Path, model: nn.Module, *hooks: Any, **changes: Any) -> Runner:
    settings: dict[str, Any] = dict(
        model=model,
        work_dir=str(folder / 'work'),
        experiment_name=f'{folder.name}_{next(NUMBERS)}',
        test_dataloader=dict(dataset=Images(), batch_size=3, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False)),
        test_evaluator=dict(type='dynperceiver.DynamicAccuracy'),
        test_cfg=dict(),
        default_hooks=dict(logger=None, timer=None, checkpoint=None, param_scheduler=None),
        custom_hooks=list(hooks),
        log_level='ERROR',
    )
    return Runner(**{**settings, **changes})


def save(folder: Path, *, checkpoint: str | None = None, thresholds: tuple[float, ...] = THRESHOLDS, **record: Any) -> str:
    path = folder / 'policy.json'
    ExitPolicy(thresholds, record=PolicyRecord(checkpoint=checkpoint, **record)).save(path)
    return str(path)


class Peek(Hook):
    """Keeps what the model and the metric have before and after a test."""

    priority = 'VERY_LOW'

    def before_test_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self.during = (runner.model.dynamic_runner, runner.test_evaluator.metrics[0].run)

    def after_test(self, runner: Runner) -> None:
        self.after = (runner.model.dynamic_runner, runner.test_evaluator.metrics[0].run)


def dividing_thresholds(logits_ESK: np.ndarray) -> tuple[float, ...]:
    """Thresholds midway between scores, at which two of the samples that are left leave each exit."""
    policy, left_S, thresholds = ExitPolicy(THRESHOLDS), np.arange(NUM_IMAGES), []
    for exit_index in range(3):
        score_S = policy.score_of(exit_index, logits_ESK[exit_index, left_S]).astype(float)
        falling_S = np.sort(score_S)[::-1]
        assert falling_S[1] - falling_S[2] > 1e-4
        thresholds.append(float(falling_S[1:3].mean()))
        left_S = left_S[score_S < thresholds[-1]]
    return tuple(thresholds)


def test_samples_leave_where_replaying_says(tmp_path: Path) -> None:
    model, peek = Model(network()), Peek()
    with torch.no_grad():
        logits_ESK = torch.stack(model.backbone(Images().images)).numpy()
    path = save(tmp_path, checkpoint=fingerprint_of_network(model.backbone), thresholds=dividing_thresholds(logits_ESK))
    runner = runner_of(tmp_path, model, dict(type='dynperceiver.ExitPolicyHook', policy=path), peek)
    ran: list[tuple[int, int]] = []

    def count_samples(module: Any, args: Any, output: Any) -> None:
        ran.append((module.number, len(output[0])))

    for segment in model.backbone.segments:
        segment.register_forward_hook(count_samples)
    found = runner.test()
    exit_S, _ = ExitPolicy.load(path).replay(logits_ESK)
    assert np.bincount(exit_S).tolist() == [2, 2, 2, 1]
    assert [found[f'dynamic/exit{k + 1}_fraction'] for k in range(4)] == pytest.approx([2 / 7, 2 / 7, 2 / 7, 1 / 7])
    right_S = logits_ESK[exit_S, np.arange(NUM_IMAGES)].argmax(1) == np.arange(NUM_IMAGES) % 5
    assert found['dynamic/top1'] == pytest.approx(right_S.mean())
    assert [found[f'dynamic/exit{k + 1}_top1'] for k in range(4)] == pytest.approx([right_S[exit_S == k].mean() for k in range(4)])
    costs = np.array([cost.cost_gmacs for cost in count_exit_costs(model.backbone, *SIZE)])
    assert found['dynamic/mean_gflops'] == pytest.approx(costs[exit_S].mean())
    assert 0 < found['dynamic/median_ms'] <= found['dynamic/p95_ms'] and found['dynamic/batch_size'] == 3
    # After the warm-up on the first batch, which runs everything, a segment sees those alone that have not left.
    assert ran[:4] == [(number, 3) for number in (1, 2, 3, 4)]
    assert [sum(size for number, size in ran[4:] if number == segment) for segment in (1, 2, 3, 4)] == [7, 5, 3, 1]
    assert isinstance(peek.during[0], TimedRunner) and peek.during[0] is peek.during[1]
    assert peek.after == (None, None)


def test_weights_are_those_that_the_runner_loads(tmp_path: Path) -> None:
    """The checkpoint comes after most hooks have begun."""
    trained = network()
    with torch.no_grad():
        trained.latent_branch.latent.mul_(3)
    torch.save({'state_dict': {f'backbone.{key}': value for key, value in trained.state_dict().items()}}, tmp_path / 'some.pth')
    initial, fitting = fingerprint_of_network(network()), fingerprint_of_network(trained)
    assert initial != fitting
    hook = ExitPolicyHook(save(tmp_path, checkpoint=fitting))
    assert 'dynamic/top1' in runner_of(tmp_path, Model(network()), hook, load_from=str(tmp_path / 'some.pth')).test()
    hook = ExitPolicyHook(save(tmp_path, checkpoint=initial))
    with pytest.raises(CheckpointError, match=rf'policy\.json: the policy was made for the weights {initial}, .* has {fitting}: '):
        runner_of(tmp_path, Model(network()), hook, load_from=str(tmp_path / 'some.pth')).test()


def test_weights_are_those_that_other_hooks_put_in_for_the_test(tmp_path: Path) -> None:
    class Average(Hook):
        priority = 'NORMAL'

        def before_test_epoch(self, runner: Runner) -> None:
            with torch.no_grad():
                runner.model.backbone.latent_branch.latent.mul_(2)

    averaged = network()
    with torch.no_grad():
        averaged.latent_branch.latent.mul_(2)
    hook = ExitPolicyHook(save(tmp_path, checkpoint=fingerprint_of_network(averaged)))
    assert 'dynamic/top1' in runner_of(tmp_path, Model(network()), hook, Average()).test()


def test_cap_moves_all_to_earlier_exits_and_expects_nothing(tmp_path: Path) -> None:
    path = save(tmp_path, thresholds=(2.0, 2.0, 2.0), expected={'accuracy': 0.5})
    model = Model(network())
    found = runner_of(tmp_path, model, ExitPolicyHook(path, max_exit=1)).test()
    assert found['dynamic/exit2_fraction'] == 1
    assert model.seen[0].expected == {}
    model = Model(network())
    assert runner_of(tmp_path, model, ExitPolicyHook(path, max_exit=3)).test()['dynamic/exit4_fraction'] == 1
    assert model.seen[0].expected == {'accuracy': 0.5}


def test_the_model_may_be_wrapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(network())
    runner = runner_of(tmp_path, model, ExitPolicyHook(save(tmp_path)))

    class Wrapper(MMDistributedDataParallel):
        def __init__(self, module: BaseModel) -> None:
            nn.Module.__init__(self)
            self.module = module

    runner.model = Wrapper(model)
    assert 'dynamic/top1' in runner.test()
    assert all(isinstance(seen, TimedRunner) for seen in model.seen) and model.dynamic_runner is None


@pytest.fixture
def refused(tmp_path: Path) -> Iterator[Any]:
    """Function that tests a model with a policy and gives the message."""

    def test(policy: str, model: nn.Module | None = None, **arguments: Any) -> str:
        with pytest.raises(CheckpointError) as caught:
            runner_of(tmp_path, model or Model(network()), ExitPolicyHook(policy, **arguments)).test()
        return str(caught.value)

    yield test


def test_policies_that_do_not_fit_are_refused(tmp_path: Path, refused: Any) -> None:
    missing = str(tmp_path / 'none.json')
    assert refused(missing) == f'policy {missing} is missing; check the path, or make it with tools/calibrate.py'
    (tmp_path / 'cut.json').write_text('{"format": ')
    assert 'cut.json is not the JSON of a policy' in refused(str(tmp_path / 'cut.json'))
    path = save(tmp_path, thresholds=(0.5, 0.5))
    assert refused(path).startswith(f'{path}: the policy has 2 thresholds, for 3 exits, but the network has 4 exits; pass 3 thresholds')
    path = save(tmp_path)
    assert 'max_exit=4: pass the index of an exit, 0 to 3' in refused(path, max_exit=4)
    assert "backend='tensorrt' is unknown; choose 'torch' or 'onnxruntime'" in refused(path, backend='tensorrt')


class Plain(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'tensor') -> Any:
        return data_samples


def test_models_that_cannot_leave_early_are_refused(tmp_path: Path, refused: Any) -> None:
    path = save(tmp_path)
    assert f'Plain does not know dynamic inference, so it cannot be tested with the policy {path}; test a Dyn' in refused(path, Plain())
    assert 'Model holds no DynPerceiver; early exits need one as its backbone' in refused(path, Model(nn.Linear(1, 1)))
    backbone = narrow_model(dtype=torch.float32, num_classes=None)
    assert 'the network was built without exits (num_classes=None)' in refused(path, Model(backbone))


def test_read_exit_policy_gives_the_policy(tmp_path: Path) -> None:
    assert read_exit_policy(save(tmp_path)).thresholds == THRESHOLDS


class Clock:
    """Seconds that the test sets; the segments take some."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_time_is_that_of_the_call_without_the_first_run(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, model = Clock(), Model(network())
    timed = TimedRunner(model, ExitPolicy((2.0, 2.0, 2.0)), clock=clock)
    images = Images().images
    run, calls = timed.engine.run, []

    def slow(exit_index: int, state: Any) -> Any:
        calls.append(exit_index)
        clock.now += 1.0 if len(calls) <= 4 else 0.010
        return run(exit_index, state)

    monkeypatch.setattr(timed.engine, 'run', slow)
    assert (timed.batch_ms, timed.cost_gflops) == (0, ())
    timed(images)
    assert calls == [0, 1, 2, 3] * 2
    assert timed.batch_ms == pytest.approx(40)
    timed(images, max_exit=0)
    assert calls == [0, 1, 2, 3] * 2 + [0]
    assert timed.batch_ms == pytest.approx(10)


def test_views_are_averaged_as_the_model_says_and_counted_per_call() -> None:
    model = Model(narrow_model(dtype=torch.float32, num_frames=2))
    model.average_views = 'prob'
    timed = TimedRunner(model, ExitPolicy((2.0, 2.0, 2.0)))
    images = torch.randn(12, 3, *SIZE)
    with torch.no_grad():
        expected_SK = model.backbone(images)[3].unflatten(0, (2, 3)).softmax(-1).mean(1)
    result = timed(images, views=3)
    torch.testing.assert_close(result.logits.softmax(-1), expected_SK, rtol=1e-4, atol=1e-5)
    assert timed.cost_gflops == pytest.approx([3 * cost.cost_gmacs for cost in count_exit_costs(model.backbone, *SIZE)])
    assert timed.views == 1


def test_cost_of_a_video_is_that_of_all_its_views() -> None:
    model = Model(narrow_model(dtype=torch.float32, num_frames=2))
    costs = [cost.cost_gmacs for cost in count_exit_costs(model.backbone, *SIZE)]
    timed = TimedRunner(model, ExitPolicy(THRESHOLDS))
    timed.views = 3
    result = timed(torch.randn(12, 3, *SIZE))
    assert len(result.exit_index) == 2
    assert timed.cost_gflops == pytest.approx([3 * cost for cost in costs])


def test_what_the_backend_cannot_run_is_said_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = TimedRunner(Model(network()), ExitPolicy(THRESHOLDS))
    with pytest.raises(CheckpointError, match=r'the torch backend cannot run the network: input of type torch\.uint8'):
        timed(torch.zeros(1, 3, *SIZE, dtype=torch.uint8))

    def missing(images: Tensor) -> None:
        raise ImportError('onnx is missing')

    monkeypatch.setattr(timed.engine, 'start', missing)
    with pytest.raises(CheckpointError, match='cannot run the network: onnx is missing'):
        timed(Images().images)


def test_metrics_of_other_kinds_are_left_alone(tmp_path: Path) -> None:
    class Other(DynamicAccuracy):
        default_prefix = 'other'

    evaluator = [DynamicAccuracy(), Other(), dict(type='DumpResults', out_file_path=str(tmp_path / 'kept.pkl'))]
    found = runner_of(tmp_path, Model(network()), ExitPolicyHook(save(tmp_path)), test_evaluator=evaluator).test()
    assert found['other/mean_gflops'] == found['dynamic/mean_gflops']
    assert (tmp_path / 'kept.pkl').is_file()
