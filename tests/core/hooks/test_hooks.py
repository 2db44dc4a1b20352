"""Hooks in a real runner."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from tiny_training import STEPS_PER_EPOCH, make_runner
from torch import Tensor, nn

from dynperceiver import hooks
from dynperceiver.data import innermost_datasets

BATCH_OF_TROUBLE = 3


class Samples(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Any]:
        names = {'filename': f'videos/clip_{index}.mp4'} if index % 2 else {'img_path': f'images/{index}.png'}
        return {'inputs': torch.tensor([float(index)]), 'data_samples': BaseDataElement(**names)}


class Model(BaseModel):
    def __init__(self, bad: float, term: str = 'loss_exit2') -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.bad, self.term = bad, term

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'tensor') -> Any:
        if mode != 'loss':
            return data_samples
        losses: dict[str, Tensor] = {'loss_exit1': self.weight.sum(), 'loss_exit2': self.weight.sum() * 2}
        losses['accuracy'] = torch.tensor(float('nan'))
        if float(inputs[0]) >= 2 * (BATCH_OF_TROUBLE - 1):
            losses[self.term] = losses[self.term] * self.bad
        return losses


class Constant(BaseMetric):
    default_prefix = 'acc'

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += data_samples

    def compute_metrics(self, results: list[Any]) -> dict[str, Any]:
        return {'exit1_top1': 0.25, 'samples': len(results), 'confusion': [[1, 2]]}


def _loader() -> dict[str, Any]:
    return {'dataset': Samples(), 'batch_size': 2, 'sampler': {'type': 'DefaultSampler', 'shuffle': False}}


def _runner(tmp_path: Path, model: BaseModel, **changes: Any) -> Runner:
    settings: dict[str, Any] = {
        'train_dataloader': _loader(),
        'optim_wrapper': {'optimizer': {'type': 'SGD', 'lr': 0.1}},
        'train_cfg': {'by_epoch': False, 'max_iters': 4},
        'default_hooks': {'checkpoint': {'type': 'CheckpointHook', 'interval': 1, 'by_epoch': False}},
        'experiment_name': tmp_path.name,
        'log_level': 'ERROR',
        'visualizer': {'type': 'Visualizer', 'vis_backends': [{'type': 'LocalVisBackend'}]},
        'randomness': {'seed': 0},
    }
    return Runner(model, str(tmp_path / 'work'), **{**settings, **changes})


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_a_loss_that_is_not_finite_stops_the_training(tmp_path: Path, bad: float) -> None:
    runner = _runner(tmp_path, Model(bad), custom_hooks=[{'type': 'dynperceiver.NonFiniteLossHook'}])
    with pytest.raises(FloatingPointError) as caught:
        runner.train()
    text = str(caught.value)
    assert text.startswith(f'loss is not finite at epoch 1, iteration {BATCH_OF_TROUBLE} (learning rate 0.1): ')
    assert f'loss_exit2={bad}' in text
    assert f'loss={bad}' in text
    assert 'loss_exit1' not in text
    assert 'accuracy' not in text, 'only losses are watched'
    assert 'Files of the batch: images/4.png, videos/clip_5.mp4. ' in text
    assert '--resume' in text
    assert sorted(path.name for path in (tmp_path / 'work').glob('*.pth')) == ['iter_1.pth', 'iter_2.pth'], 'none from after'


def test_checking_less_often(tmp_path: Path) -> None:
    seldom = [{'type': 'dynperceiver.NonFiniteLossHook', 'interval': 4}]
    never_saved = {'checkpoint': {'type': 'CheckpointHook', 'interval': 10, 'by_epoch': False, 'save_last': False}}
    with pytest.raises(FloatingPointError, match='loss is not finite at epoch 1, iteration 4'):
        _runner(tmp_path, Model(float('nan')), custom_hooks=seldom, default_hooks=never_saved).train()
    with pytest.raises(FloatingPointError, match=r'weights are not finite at epoch 1, iteration 3, .*: weight\..*clip_5\.mp4'):
        _runner(tmp_path, Model(float('nan')), custom_hooks=seldom, experiment_name='saving').train()
    assert sorted(path.name for path in (tmp_path / 'work').glob('*.pth')) == ['iter_1.pth', 'iter_2.pth']
    with pytest.raises(ValueError, match='interval=0: pass 1 to check every iteration'):
        hooks.NonFiniteLossHook(interval=0)


def test_finite_losses_pass(tmp_path: Path) -> None:
    _runner(tmp_path, Model(1.0), custom_hooks=[{'type': 'dynperceiver.NonFiniteLossHook'}]).train()
    assert (tmp_path / 'work' / 'iter_4.pth').is_file()


class Poison(Hook):
    """Spoils the weights with the step of an epoch's last iteration, behind a loss that was finite."""

    priority = 'HIGHEST'

    def after_train_iter(self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        if batch_idx == STEPS_PER_EPOCH - 1:
            next(runner.model.parameters()).data.flatten()[0] = float('inf')


def test_weights_that_break_after_the_last_finite_loss_are_not_saved(tmp_path: Path) -> None:
    """The loss would show it only in the next epoch."""
    runner = make_runner(tmp_path, Poison(), dict(type='dynperceiver.NonFiniteLossHook'), num_workers=0)
    message = r'^weights are not finite at epoch 1, iteration 4, and no checkpoint is written of them: block\.0\.weight\. Files of the '
    with pytest.raises(FloatingPointError, match=message):
        runner.train()
    assert not list(tmp_path.glob('*.pth'))


def test_huge_learning_rate_is_named(tmp_path: Path) -> None:
    changes = dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e25)), param_scheduler=None)
    runner = make_runner(tmp_path, dict(type='dynperceiver.NonFiniteLossHook'), num_workers=0, **changes)
    message = r'^(loss is|weights are) not finite at epoch 1, .*lower the learning rate or clip gradients'
    with pytest.raises(FloatingPointError, match=message):
        runner.train()
    assert not list(tmp_path.glob('*.pth'))


def test_data_sets_inside_wrappers() -> None:
    """Data sets are what the training hook seeds, however deep they are wrapped."""

    class Wrapper:
        def __init__(self, **inner: Any) -> None:
            self.__dict__.update(inner)

    one, two = Samples(), Samples()
    assert innermost_datasets(one) == [one]
    assert innermost_datasets(Wrapper(datasets=[Wrapper(dataset=one), two])) == [one, two]


def test_a_samples_randomness_depends_on_seed_epoch_and_sample() -> None:
    def draw(seed: int, epoch: int, sample: int) -> tuple[float, float, float]:
        hooks.SeedSample(seed, torch.tensor([epoch]))({'sample_idx': sample})
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    assert draw(1, 2, 3) == draw(1, 2, 3)
    first = [draw(1, 2, 3), draw(2, 2, 3), draw(1, 3, 3), draw(1, 2, 4), draw(2, 1, 3)]
    assert len(set(first)) == len(first)


def test_samples_without_file_names() -> None:
    hook = hooks.NonFiniteLossHook()

    class FakeRunner:
        epoch, iter = 4, 99

    nameless = {'data_samples': [BaseDataElement()]}
    for batch, said in ((nameless, 'a sample without a file name'), ((torch.zeros(1),), 'unknown'), (None, 'unknown')):
        with pytest.raises(FloatingPointError, match=f'epoch 5, iteration 100.*Files of the batch: {said}'):
            hook.after_train_iter(FakeRunner(), 0, batch, {'loss': torch.tensor(float('nan'))})
    hook.after_train_iter(FakeRunner(), 0, None, None)
    hook.after_train_iter(FakeRunner(), 0, None, {'loss': 1.5, 'other': float('nan')})


def _scalars(tmp_path: Path) -> dict[str, Any]:
    (path,) = (tmp_path / 'work').glob('*/vis_data/scalars.json')
    return {name: value for line in path.read_text().splitlines() for name, value in json.loads(line).items()}


@pytest.mark.parametrize('custom_hooks', [[{'type': 'dynperceiver.TestScalarsHook'}], []], ids=['with', 'without'])
def test_scalars_of_a_test_reach_the_visualizer(tmp_path: Path, custom_hooks: list[Any]) -> None:
    runner = _runner(
        tmp_path,
        Model(1.0),
        custom_hooks=custom_hooks,
        train_dataloader=None,
        optim_wrapper=None,
        train_cfg=None,
        test_dataloader=_loader(),
        test_cfg={},
        test_evaluator=Constant(),
    )
    assert runner.test()['acc/exit1_top1'] == 0.25
    if custom_hooks:
        assert _scalars(tmp_path) == {'test/acc/exit1_top1': 0.25, 'test/acc/samples': 8, 'step': 0}
    else:
        assert not list((tmp_path / 'work').glob('*/vis_data/scalars.json')), 'MMEngine alone writes none'


def test_a_test_needs_no_training_data(tmp_path: Path) -> None:
    """Asking the runner for its epoch would build the training loop, and with it data that may not be there."""

    def missing(*args: Any, **kwargs: Any) -> None:
        raise FileNotFoundError('the training data is missing')

    runner = _runner(
        tmp_path,
        Model(1.0),
        custom_hooks=[{'type': 'dynperceiver.TestScalarsHook'}],
        train_dataloader={'dataset': {'type': missing}},
        test_dataloader=_loader(),
        test_cfg={},
        test_evaluator=Constant(),
    )
    assert runner.test()['acc/exit1_top1'] == 0.25
    assert _scalars(tmp_path)['step'] == 0
