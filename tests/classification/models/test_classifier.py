"""The classifier's modes, losses and messages, with a Dyn-Perceiver and with a backbone-only baseline."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS
from silent_parameters import silent_parameters
from tiny_classification import NUM_CLASSES, SMALL, random_batch
from torch import Tensor

from dynperceiver.losses import MultiExitLoss
from dynperceiver.metrics import MultiExitAccuracy
from dynperceiver_cls import ClsDataSample
from dynperceiver_cls.models import DynPerceiverClassifier

TYPES = ('dynperceiver.DynPerceiver', 'dynperceiver.StaticTrunk')
NUM_EXITS = dict(zip(TYPES, (4, 1), strict=True))
MIXING = dict(type='dynperceiver_cls.MixupCutmix', num_classes=NUM_CLASSES)

each_type = pytest.mark.parametrize('type_', TYPES)


def _classifier(type_: str = TYPES[0], **arguments: Any) -> DynPerceiverClassifier:
    backbone = dict(type=type_, **SMALL[type_])
    if type_ == TYPES[1]:
        arguments.setdefault('loss', dict(type='dynperceiver.MultiExitLoss', exit_weights=(1,)))
    model: DynPerceiverClassifier = MODELS.build(dict(type='dynperceiver_cls.DynPerceiverClassifier', backbone=backbone, **arguments))
    return model


def _prepared(model: DynPerceiverClassifier, training: bool = False, **batch: Any) -> dict[str, Any]:
    result: dict[str, Any] = model.data_preprocessor(random_batch(**batch), training=training)
    return result


@each_type
def test_tensor_mode_gives_the_logits_of_all_exits(type_: str) -> None:
    model = _classifier(type_).eval()
    inputs = _prepared(model)['inputs']
    logits = model(inputs)
    assert [one.shape for one in logits] == [(8, NUM_CLASSES)] * NUM_EXITS[type_]
    assert all(torch.equal(one, same) for one, same in zip(logits, model.backbone(inputs), strict=True))


@each_type
def test_predict_mode_writes_scores_on_the_data_samples(type_: str) -> None:
    model = _classifier(type_).eval()
    batch = _prepared(model)
    logits = torch.stack(model(batch['inputs']), 1)
    samples = model(**batch, mode='predict')
    for number, sample in enumerate(samples):
        assert sample is batch['data_samples'][number]
        assert sample.gt_label == number % NUM_CLASSES and sample.img_path == f'image{number}.png'
        torch.testing.assert_close(sample.exit_scores, logits[number].softmax(1).detach())
        assert torch.equal(sample.pred_score, sample.exit_scores[-1])
        assert sample.pred_label == int(logits[number, -1].argmax()) and isinstance(sample.pred_label, int)
        assert not sample.exit_scores.requires_grad
    metric = MultiExitAccuracy()
    metric.process({}, [sample.to_dict() for sample in samples])
    expected = sum(sample.pred_label == sample.gt_label for sample in samples) / 8
    assert metric.evaluate(8)[f'acc/exit{NUM_EXITS[type_]}_top1'] == pytest.approx(expected)


def test_predict_takes_images_without_samples_or_labels() -> None:
    model = _classifier().eval()
    inputs = _prepared(model)['inputs']
    (sample, *others) = model(inputs, mode='predict')
    assert isinstance(sample, ClsDataSample) and len(others) == 7
    unlabelled = model(inputs, [ClsDataSample() for _ in range(8)], mode='predict')
    assert 'gt_label' not in unlabelled[0]
    assert torch.equal(unlabelled[0].exit_scores, sample.exit_scores)


def test_scores_of_half_precision_sum_up_to_one() -> None:
    model = _classifier().eval()
    inputs = _prepared(model)['inputs']
    with torch.autocast('cpu', torch.bfloat16):
        samples = model(inputs, mode='predict')
    assert samples[0].exit_scores.dtype == torch.float32
    torch.testing.assert_close(samples[0].exit_scores.sum(1), torch.ones(4))


@each_type
def test_loss_mode_gives_terms_and_accuracies(type_: str) -> None:
    model = _classifier(type_).eval()  # so that the logits can be computed again
    batch = _prepared(model)
    logits = model(batch['inputs'])
    labels = torch.arange(8) % NUM_CLASSES
    found = model(**batch, mode='loss')
    terms = (MultiExitLoss() if type_ == TYPES[0] else MultiExitLoss(exit_weights=(1,)))(logits, labels)
    exits = range(NUM_EXITS[type_])
    assert list(found) == [*terms, *(f'exit{k + 1}_top{n}' for k in exits for n in (1, 5))]
    for name, value in terms.items():
        torch.testing.assert_close(found[name], value)
    for k in exits:
        assert found[f'exit{k + 1}_top1'].item() == pytest.approx((logits[k].argmax(1) == labels).float().mean().item())
        assert found[f'exit{k + 1}_top5'].item() == 1.0
    loss, _ = model.parse_losses(found)
    torch.testing.assert_close(loss, sum(terms.values()))


@each_type
def test_bf16_gives_nearly_the_same_loss(type_: str) -> None:
    model = _classifier(type_)
    batch = _prepared(model)
    full = model(**batch, mode='loss')
    with torch.autocast('cpu', torch.bfloat16):
        half = model(**batch, mode='loss')
    for name in full:
        if 'loss' in name:
            assert half[name].dtype == torch.float32
            torch.testing.assert_close(half[name], full[name], rtol=0.02, atol=0.02)
    sum(value for name, value in half.items() if 'loss' in name).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_topk_is_a_setting() -> None:
    model = _classifier(topk=(2,))
    names = list(model(**_prepared(model), mode='loss'))
    assert [name for name in names if 'top' in name] == [f'exit{k}_top2' for k in (1, 2, 3, 4)]


def test_mixed_targets_reach_the_loss() -> None:
    model = _classifier(data_preprocessor=dict(type='dynperceiver_cls.ClsDataPreprocessor', mixing=MIXING)).eval()
    batch = _prepared(model, training=True)
    targets = batch['targets']
    found = model(**batch, mode='loss')
    logits = model(batch['inputs'])
    for name, value in MultiExitLoss()(logits, targets).items():
        torch.testing.assert_close(found[name], value)
    by_label = model(**dict(batch, targets=None), mode='loss')
    assert not torch.isclose(found['loss_exit4'], by_label['loss_exit4'])
    assert found['exit1_top1'].item() == (logits[0].argmax(1) == targets.argmax(1)).float().mean().item()


@each_type
def test_a_training_step_of_mmengine(type_: str) -> None:
    model = _classifier(type_, data_preprocessor=dict(type='dynperceiver_cls.ClsDataPreprocessor', mixing=MIXING)).train()
    before = {name: value.clone() for name, value in model.named_parameters()}
    seen: list[Tensor] = []
    model.backbone.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    wrapper = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=1e-2))
    log = model.train_step(random_batch(), wrapper)
    assert seen[0].is_contiguous(memory_format=torch.channels_last) and seen[0].dtype == torch.float32
    terms = [name for name in log if name.startswith('loss_')]
    assert log['loss'].item() == pytest.approx(sum(log[name].item() for name in terms), rel=1e-5)
    assert len(terms) == (5 if type_ == TYPES[0] else 1)
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert moved | silent_parameters(model) == set(before)


@each_type
def test_validation_and_test_steps_of_mmengine(type_: str) -> None:
    model = _classifier(type_).eval()
    for step in (model.val_step, model.test_step):
        samples = step(random_batch())
        assert samples[0].exit_scores.shape == (NUM_EXITS[type_], NUM_CLASSES)


@each_type
@pytest.mark.parametrize('label', [-1, NUM_CLASSES, 1000])
def test_labels_out_of_range(type_: str, label: int) -> None:
    model = _classifier(type_)
    batch = _prepared(model)
    batch['data_samples'][2].gt_label = label
    low, high = min(label, 0), max(label, NUM_CLASSES - 1)
    text = f'labels of this batch run from {low} to {high}, but the model has 5 classes; set model.backbone.num_classes to that of'
    with pytest.raises(ValueError, match=text):
        model(**batch, mode='loss')


def test_the_last_class_is_a_class() -> None:
    model = _classifier()
    batch = _prepared(model)
    for sample in batch['data_samples']:
        sample.gt_label = NUM_CLASSES - 1
    assert model(**batch, mode='loss')['loss_exit4'].isfinite()


@pytest.mark.parametrize('path', ['x.png', None])
def test_unlabelled_images_do_not_train(path: str | None) -> None:
    model = _classifier()
    batch = _prepared(model)
    batch['data_samples'][5] = ClsDataSample(metainfo=dict(img_path=path) if path else {})
    with pytest.raises(ValueError, match=f'{path or "an image"} has no gt_label; .* or use predict for images without labels'):
        model(**batch, mode='loss')


def test_unknown_mode() -> None:
    model = _classifier()
    with pytest.raises(ValueError, match="mode='train': choose 'loss', 'predict' or 'tensor'"):
        model(torch.zeros(1, 3, 64, 64), mode='train')


def test_a_loss_for_four_exits_needs_four() -> None:
    model = _classifier(TYPES[1], loss=dict(type='dynperceiver.MultiExitLoss'))
    with pytest.raises(ValueError, match=r'the model has 1 exits, but exit_weights=\(0\.5, 0\.5, 1\.0, 1\.0\); .* a backbone-only'):
        model(**_prepared(model), mode='loss')


def test_the_recipes_loss_is_the_default() -> None:
    loss = _classifier().loss_module
    assert (loss.exit_weights, loss.distill_weight, loss.form) == ((0.5, 0.5, 1.0, 1.0), 0.5, 'sum')


def test_images_of_a_batch_may_come_as_a_list() -> None:
    model = _classifier().eval()
    batch = random_batch()
    expected = model.test_step(random_batch())
    found = model.test_step(dict(batch, inputs=list(batch['inputs'])))
    assert all(torch.equal(one.exit_scores, same.exit_scores) for one, same in zip(found, expected, strict=True))


@pytest.mark.parametrize('label', [-1, NUM_CLASSES])
def test_labels_out_of_range_are_not_mixed(label: int) -> None:
    model = _classifier(data_preprocessor=dict(type='dynperceiver_cls.ClsDataPreprocessor', mixing=MIXING))
    batch = random_batch()
    batch['data_samples'][3].gt_label = label
    with pytest.raises(ValueError, match=r'labels of this batch run from .* the model has 5 classes; set .*mixing\.num_classes'):
        model.data_preprocessor(batch, training=True)


def test_mixing_of_another_number_of_classes() -> None:
    mixing = dict(MIXING, num_classes=NUM_CLASSES + 2)
    model = _classifier(data_preprocessor=dict(type='dynperceiver_cls.ClsDataPreprocessor', mixing=mixing))
    with pytest.raises(ValueError, match=r'targets of 7 classes, but the model has 5; set model\.data_preprocessor\.mixing\.num_classes'):
        model(**_prepared(model, training=True), mode='loss')
