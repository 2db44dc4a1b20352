"""The ImageNet recipe step by step: schedule, decay, loss, a step of AdamW, averaged weights, mixing, against the recipe's numbers."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from core_models import fill, load_golden, standard_normal
from mmengine.hooks import ParamSchedulerHook
from mmengine.model import BaseDataPreprocessor
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import HOOKS, MODELS, PARAM_SCHEDULERS
from tiny_classification import IMAGENET_LEAVES, NUM_CLASSES, PUBLISHED, load_leaf, random_batch, shadow_of, tiny_model
from torch import Tensor, nn

from dynperceiver.checkpoint import convert_from_reference
from dynperceiver_cls import ClsDataSample

WARM_UP_EPOCHS, MIN_LR = 20, 1e-6
GOLDEN = dict(zip(PUBLISHED, ('regnet_y_800mf', 'resnet50_x0375', 'mobilenet_v3_large_x075'), strict=True))
RELATIVE = 1e-8
STATIC = [leaf.removeprefix('dynperceiver-') for leaf in PUBLISHED]

each_published = pytest.mark.parametrize('leaf', PUBLISHED)
each_leaf = pytest.mark.parametrize('leaf', IMAGENET_LEAVES)


def _family(leaf: str) -> str:
    name = leaf.removeprefix('dynperceiver-')
    return 'mobilenet' if name.startswith('mobilenet') else 'regnet' if name.startswith('regnet') else 'resnet'


def _base_lr(leaf: str) -> float:
    return 6e-4 if _family(leaf) == 'resnet' else 1e-3


def _num_epochs(leaf: str) -> int:
    return 600 if _family(leaf) == 'mobilenet' else 300


def _wrapper(leaf: str, model: nn.Module) -> OptimWrapper:
    return build_optim_wrapper(model, load_leaf(leaf).optim_wrapper)


def _learning_rates(leaf: str, epoch_length: int, num_steps: int) -> list[float]:
    """The learning rate that every step is made with, as MMEngine's schedulers and hook set it."""
    wrapper = _wrapper(leaf, nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    schedulers = [
        PARAM_SCHEDULERS.build(dict(settings), default_args=dict(optimizer=wrapper, epoch_length=epoch_length))
        for settings in load_leaf(leaf).param_scheduler
    ]
    hook, runner = ParamSchedulerHook(), SimpleNamespace(param_schedulers=schedulers)
    rates = []
    for step in range(num_steps):
        (rate,) = {group['lr'] for group in wrapper.optimizer.param_groups}
        rates.append(rate)
        wrapper.step()  # nothing has a gradient; schedulers are to be stepped after it
        hook.after_train_iter(runner, step)
    return rates


def _recipe(step: int, epoch_length: int, leaf: str) -> float:
    """Linear from almost 0 over the first 20 epochs, then half a cosine down to 1e-6, per step."""
    base, warm_up, total = _base_lr(leaf), WARM_UP_EPOCHS * epoch_length, _num_epochs(leaf) * epoch_length
    if step < warm_up:
        start = base * 1e-6
        return start + (base - start) * step / (warm_up - 1)
    return MIN_LR + (base - MIN_LR) * (1 + math.cos(math.pi * (step - warm_up) / (total - warm_up))) / 2


@each_published
def test_learning_rate_of_every_step(leaf: str) -> None:
    length = 8
    rates = _learning_rates(leaf, length, _num_epochs(leaf) * length)
    assert rates == pytest.approx([_recipe(step, length, leaf) for step in range(len(rates))], rel=1e-6)
    base, warm_up, middle = _base_lr(leaf), WARM_UP_EPOCHS * length, (WARM_UP_EPOCHS + _num_epochs(leaf)) * length // 2
    assert rates[0] < 1e-8 and rates[warm_up - 1] == pytest.approx(base) == rates[warm_up]
    assert rates[warm_up // 2] == pytest.approx(base / 2, rel=0.01)
    assert rates[middle] == pytest.approx((base + MIN_LR) / 2)
    assert MIN_LR < rates[-1] < MIN_LR + 1e-5 * base
    assert max(rates) == pytest.approx(base)


def test_learning_rate_with_the_1251_steps_of_an_imagenet_epoch() -> None:
    length = 1_281_167 // 1024
    assert length == 1251
    rates = _learning_rates(PUBLISHED[0], length, 21 * length)
    for step in (0, 1, 10 * length, 20 * length - 1, 20 * length, 20 * length + 1, 21 * length - 1):
        assert rates[step] == pytest.approx(_recipe(step, length, PUBLISHED[0]), rel=1e-6), step


@each_leaf
def test_numbers_of_the_recipe(leaf: str) -> None:
    cfg = load_leaf(leaf)
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[1].end == _num_epochs(leaf)
    wrapper = cfg.optim_wrapper
    assert wrapper.optimizer == dict(type='AdamW', lr=_base_lr(leaf), weight_decay=0.05)
    assert wrapper.type == 'OptimWrapper', 'single precision'
    assert wrapper.paramwise_cfg == dict(norm_decay_mult=0, bias_decay_mult=0, flat_decay_mult=0)
    assert 'clip_grad' not in wrapper and 'accumulative_counts' not in wrapper
    assert 8 * cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 1024
    assert not cfg.auto_scale_lr.enable
    (average,) = [hook for hook in cfg.custom_hooks if hook.type.endswith('EMAHook')]
    assert 1 - average.momentum == pytest.approx(0.9999) and average.update_buffers
    preprocessor = cfg.model.data_preprocessor
    assert preprocessor.before_norm == [
        dict(type='dynperceiver_cls.RandAugment', num_ops=2, magnitude=9, magnitude_std=0.5, prob=0.5, increasing=True)
    ]
    assert preprocessor.after_norm == [
        dict(type='dynperceiver_cls.RandomErasing', prob=0.25, area=(0.02, 1 / 3), ratio=(0.3, 3.3), mode='pixel')
    ]
    mixing = dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5, label_smoothing=0.1)
    assert preprocessor.mixing == dict(type='dynperceiver_cls.MixupCutmix', num_classes=1000, **mixing)
    assert cfg.model.loss.get('label_smoothing', 0) == 0, 'mixing smooths the labels'
    assert (preprocessor.mean, preprocessor.std) == ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    crop, test = cfg.train_dataloader.dataset.pipeline[1], cfg.val_dataloader.dataset.pipeline
    assert (crop['size'], crop['interpolation'], tuple(crop['scale'])) == (224, 'bicubic', (0.08, 1.0))
    assert (test[1]['short_edge'], test[1]['interpolation'], test[2]['size']) == (256, 'bicubic', 224)


@each_leaf
def test_dropout_and_drop_path(leaf: str) -> None:
    """ResNet: 0.2 before the feature head and in the blocks; MobileNet-v3: 0.2 within its two-layer heads; RegNetY: none."""
    network: Any = shadow_of(leaf).backbone
    dropouts = [module.p for module in network.modules() if isinstance(module, nn.Dropout) and module.p]
    paths = [module.drop_prob for module in network.modules() if type(module).__name__ == 'DropPath']
    two_heads = 1 if leaf.removeprefix('dynperceiver-') == leaf else 2
    assert dropouts == {'resnet': [0.2], 'mobilenet': [0.2] * two_heads, 'regnet': []}[_family(leaf)]
    assert max(paths, default=0) == (0.2 if _family(leaf) == 'resnet' else 0)


@pytest.mark.parametrize('leaf', [*PUBLISHED, *STATIC])
def test_weight_decay(leaf: str) -> None:
    model = shadow_of(leaf)
    groups = _wrapper(leaf, model).optimizer.param_groups
    assert len(groups) == 2
    decay = {id(parameter): group['weight_decay'] for group in groups for parameter in group['params']}
    wrong = [name for name, parameter in model.named_parameters() if decay[id(parameter)] != (0.05 if parameter.dim() >= 2 else 0)]
    assert not wrong
    assert {group['lr'] for group in groups} == {_base_lr(leaf)}
    one_dimensional = {name.rpartition('.')[2] for name, parameter in model.named_parameters() if parameter.dim() < 2}
    assert one_dimensional == {'weight', 'bias'}, 'norms and biases'


@pytest.mark.parity
@pytest.mark.parametrize('leaf', [PUBLISHED[0], pytest.param(PUBLISHED[1], marks=pytest.mark.slow), PUBLISHED[2]])
def test_a_step_from_golden_weights(leaf: str) -> None:
    """Loss and gradients are the published reference's, and AdamW moves every weight as written out here, in float64."""
    golden = load_golden(GOLDEN[leaf])
    settings = load_leaf(leaf).model
    settings.backbone.update(dropout=0.0, drop_path=0.0)  # as the golden numbers were made
    with torch.device('meta'):
        model = MODELS.build(settings)
    reference = fill(golden['shapes'])
    weights = convert_from_reference({'model': reference})
    names = dict(zip(reference, weights, strict=True))
    before = {name: value.clone() for name, value in weights.items()}
    model.backbone.load_state_dict(weights, assign=True)
    model.requires_grad_(True).train()
    model.data_preprocessor = BaseDataPreprocessor()  # the golden images are normalised, and of float64
    samples = [ClsDataSample(gt_label=target) for target in golden['train']['targets']]
    wrapper = _wrapper(leaf, model)
    gradients: dict[str, Tensor] = {}

    def keep(*_: Any) -> None:
        gradients.update({name: parameter.grad.clone() for name, parameter in model.backbone.named_parameters()})

    wrapper.optimizer.register_step_pre_hook(keep)
    log = model.train_step(dict(inputs=standard_normal((2, 3, 224, 224)), data_samples=samples), wrapper)

    expected = golden['train']
    terms = [weight * term for weight, term in zip((0.5, 0.5, 1.0, 1.0), expected['ce'], strict=True)]
    assert [log[f'loss_exit{k}'].item() for k in (1, 2, 3, 4)] == pytest.approx(terms, rel=RELATIVE)
    assert log['loss_distill'].item() == pytest.approx(0.5 * expected['kd'], rel=RELATIVE)
    assert log['loss'].item() == pytest.approx(expected['loss'], rel=RELATIVE)
    for name, norm in expected['grad_norm'].items():
        assert gradients[names[name]].norm().item() == pytest.approx(norm, rel=RELATIVE), name
    total = sum(gradient.square().sum().item() for gradient in gradients.values()) ** 0.5
    assert total == pytest.approx(expected['total_grad_norm'], rel=RELATIVE)

    rate, decay, eps = _base_lr(leaf), 0.05, 1e-8
    for name, parameter in model.backbone.named_parameters():
        gradient = gradients[name]
        moved = before[name] * (1 - rate * (decay if parameter.dim() >= 2 else 0)) - rate * gradient / (gradient.abs() + eps)
        torch.testing.assert_close(parameter.detach(), moved, rtol=1e-9, atol=1e-12, msg=name)


def test_averaged_weights_follow_at_a_ten_thousandth() -> None:
    """Buffers, too; what is saved and validated is the average."""
    (settings,) = [dict(hook) for hook in load_leaf(PUBLISHED[0]).custom_hooks if hook.type.endswith('EMAHook')]
    hook: Any = HOOKS.build(settings)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    runner = SimpleNamespace(model=model, iter=0, epoch=0, max_iters=9, max_epochs=9)
    hook.before_run(runner)
    hook.before_train(runner)
    expected: dict[str, Tensor] = {}
    for step in range(4):
        with torch.no_grad():
            for value in [*model.parameters(), *(buffer for buffer in model.buffers() if buffer.is_floating_point())]:
                value.add_(torch.randn_like(value))
        runner.iter = step
        hook.after_train_iter(runner, step)
        now = {name: value.double() for name, value in model.state_dict().items()}
        expected = {name: value if step == 0 else 0.9999 * expected[name] + 0.0001 * value for name, value in now.items()}
    trained = {name: value.clone() for name, value in model.state_dict().items()}
    checkpoint = {'state_dict': dict(model.state_dict())}
    hook.before_save_checkpoint(runner, checkpoint)
    saved = {name: value.clone() for name, value in checkpoint['state_dict'].items()}
    hook.before_val_epoch(runner)
    for found in (model.state_dict(), saved):
        for name, value in expected.items():
            torch.testing.assert_close(found[name].double(), value, rtol=1e-6, atol=1e-6, msg=name)
    hook.after_val_epoch(runner)
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())


def test_every_batch_is_mixed_and_half_of_them_by_cutmix() -> None:
    torch.manual_seed(0)
    mixing: Any = MODELS.build(load_leaf(PUBLISHED[0]).model.data_preprocessor.mixing)
    draws = [mixing.draw(224, 224) for _ in range(4000)]
    assert sum(box is not None for _, box in draws) / len(draws) == pytest.approx(0.5, abs=0.03)
    shares = torch.tensor([share for share, box in draws if box is None])
    assert (shares < 1).all(), 'no batch is left as it is'
    assert shares.mean().item() == pytest.approx(0.5, abs=0.03)
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), rel=0.08), 'the variance of Beta(0.8, 0.8)'


@each_published
def test_training_batches_are_augmented_and_others_are_not(leaf: str) -> None:
    preprocessor = tiny_model(leaf).data_preprocessor
    batch, same = random_batch(), random_batch()
    plain = preprocessor(batch)
    assert 'targets' not in plain and torch.equal(plain['inputs'], preprocessor(same)['inputs'])
    for _ in range(5):
        mixed = preprocessor(random_batch(), training=True)
        assert mixed['targets'].shape == (8, NUM_CLASSES)
        assert mixed['targets'].min().item() == pytest.approx(0.1 / NUM_CLASSES, rel=1e-4)
        assert not torch.equal(mixed['inputs'], plain['inputs']) and mixed['inputs'].isfinite().all()
        assert mixed['inputs'].is_contiguous(memory_format=torch.channels_last)
