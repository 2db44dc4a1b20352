"""The recognizer: what it logs and returns, labels, views, gradients, scopes, starting from images, and that motion matters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmaction.registry import MODELS as MMACTION_MODELS
from mmaction.structures import ActionDataSample
from mmengine.registry import HOOKS, MODELS, DefaultScope
from mmengine.runner import Runner
from silent_parameters import assert_all_but_silent_learn, silent_parameters
from tiny_action import BACKBONE, NUM_FRAMES

import dynperceiver_action  # noqa: F401  registers the recognizer
from dynperceiver import build_model
from dynperceiver.checkpoint import convert_to_reference, save_state_dict
from dynperceiver.models import StaticTrunk

EXITS = (1, 2, 3, 4)
NUM_CLASSES = 8


def build(**changes: Any) -> Any:
    """A narrow recognizer; ``backbone`` in ``changes`` adds to the backbone's arguments."""
    backbone = dict(type='dynperceiver.DynPerceiver', num_classes=NUM_CLASSES, temporal_shift='bidirectional', **BACKBONE)
    backbone.update(changes.pop('backbone', {}))
    return MODELS.build(dict(type='dynperceiver_action.EarlyExitRecognizer', backbone=backbone, **changes))


def clips(num_videos: int = 3, num_frames: int = NUM_FRAMES) -> torch.Tensor:
    return torch.randn(num_videos, num_frames, 3, 32, 32)


def labelled(*labels: Any) -> list[ActionDataSample]:
    return [ActionDataSample().set_gt_label(label) for label in labels]


def test_loss_has_the_terms_of_the_loss_and_accuracies_of_each_exit() -> None:
    losses = build().train()(clips(), labelled(0, 3, 7), mode='loss')
    accuracies = {f'exit{i}_top{k}' for i in EXITS for k in (1, 5)}
    assert set(losses) == {'loss_exit1', 'loss_exit2', 'loss_exit3', 'loss_exit4', 'loss_distill'} | accuracies
    assert all(value.dim() == 0 and torch.isfinite(value) for value in losses.values())


def test_total_loss_is_the_sum_of_the_terms_alone() -> None:
    model = build().train()
    losses = model(clips(), labelled(0, 3, 7), mode='loss')
    total, logged = model.parse_losses(losses)
    assert total == sum(value for name, value in losses.items() if name.startswith('loss_'))
    assert total.requires_grad and 'exit4_top1' in logged


@pytest.fixture
def model_of_known_logits(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A recognizer whose exits rank the classes of three videos 7 > 6 > ... > 0, exit 2 the other way round."""
    model = build()
    logits = torch.arange(float(NUM_CLASSES)).expand(3, -1)
    monkeypatch.setattr(model.backbone, 'forward', lambda images: (logits, -logits, logits, logits))
    return model


def test_training_accuracies_are_top1_and_top5_of_each_exit(model_of_known_logits: Any) -> None:
    losses = model_of_known_logits(clips(), labelled(7, 3, 0), mode='loss')
    third = pytest.approx(1 / 3)
    # the largest logits are 7, 6, 5, 4, 3 at exits 1, 3 and 4, and 0, 1, 2, 3, 4 at exit 2
    assert [losses[f'exit{i}_top1'].item() for i in EXITS] == [third] * 4
    assert [losses[f'exit{i}_top5'].item() for i in EXITS] == [pytest.approx(2 / 3)] * 4
    losses = model_of_known_logits(clips(), labelled(7, 7, 1), mode='loss')
    assert [losses[f'exit{i}_top1'].item() for i in EXITS] == [pytest.approx(2 / 3), 0, pytest.approx(2 / 3), pytest.approx(2 / 3)]
    assert losses['exit2_top5'].item() == third


def test_blended_labels_count_as_their_largest_class_and_give_the_soft_loss(model_of_known_logits: Any) -> None:
    one_hot = torch.eye(NUM_CLASSES)
    hard = model_of_known_logits(clips(), labelled(7, 3, 0), mode='loss')
    soft = model_of_known_logits(clips(), labelled(one_hot[7], one_hot[3], one_hot[0]), mode='loss')
    assert set(hard) == set(soft)
    for name in hard:
        torch.testing.assert_close(hard[name], soft[name])
    blended = [0.7 * one_hot[7] + 0.3 * one_hot[0]] * 3
    mixed = model_of_known_logits(clips(), labelled(*blended), mode='loss')
    ends = [model_of_known_logits(clips(), labelled(*[label] * 3), mode='loss')['loss_exit4'] for label in (7, 0)]
    torch.testing.assert_close(mixed['loss_exit4'], 0.7 * ends[0] + 0.3 * ends[1])
    assert mixed['exit4_top1'] == 1


def test_two_classes_are_enough() -> None:
    losses = build(backbone=dict(num_classes=2)).train()(clips(2), labelled(0, 1), mode='loss')
    assert losses['exit1_top5'] == 1


def test_predict_keeps_scores_of_every_exit_and_decides_by_the_last() -> None:
    model = build().eval()
    videos, samples = clips(2), labelled(1, 2)
    with torch.no_grad():
        results = model(videos, samples, mode='predict')
        logits = model.backbone(videos.flatten(0, 1))
    for number, sample in enumerate(results):
        expected_EK = torch.stack([exit_NK[number].softmax(0) for exit_NK in logits])
        assert sample.exit_scores.shape == (4, NUM_CLASSES)
        torch.testing.assert_close(sample.exit_scores, expected_EK)
        torch.testing.assert_close(sample.pred_score, expected_EK[3])
        assert sample.pred_label.tolist() == [int(expected_EK[3].argmax())]
        assert sample.gt_label.tolist() == [number + 1]


@pytest.mark.parametrize('average_views', ['prob', 'score'])
def test_views_of_a_video_are_averaged(average_views: str) -> None:
    model = build(average_views=average_views).eval()
    with torch.no_grad():
        model.backbone.exits[3].classifier[-1].weight.mul_(20)  # far from uniform scores, so that the two means differ
        videos = clips(2, 3 * NUM_FRAMES)
        results = model(videos, labelled(1, 2), mode='predict')
        views = [torch.stack(model.backbone(videos[:, first:first + NUM_FRAMES].flatten(0, 1)), 1) for first in (0, 4, 8)]
    views = [view_NEK.softmax(-1) for view_NEK in views] if average_views == 'prob' else views
    expected_NEK = torch.stack(views).mean(0)
    for sample, expected_EK in zip(results, expected_NEK, strict=True):
        torch.testing.assert_close(sample.exit_scores, expected_EK)
    other = torch.stack(views).softmax(-1).mean(0) if average_views == 'score' else None
    assert other is None or not torch.allclose(other, expected_NEK)


@pytest.mark.parametrize('mode', ['loss', 'predict'])
@pytest.mark.parametrize('num_videos', [2, 3])
def test_frames_that_are_no_whole_clips_are_refused(mode: str, num_videos: int) -> None:
    """Also where those of all videos together would be: they must not be cut up across videos."""
    with pytest.raises(ValueError, match=r'6 frames per video, .* num_frames=4, .*; sample that many .* num_frames=6$'):
        build().eval()(clips(num_videos, 6), labelled(*range(num_videos)), mode=mode)


def test_frames_of_several_clips_are_refused_in_training() -> None:
    with pytest.raises(ValueError, match=r'3 videos gave 6 clips of 4 frames.*set num_frames of the model'):
        build().train()(clips(3, 2 * NUM_FRAMES), labelled(0, 1, 2), mode='loss')


def test_unknown_average_is_refused() -> None:
    with pytest.raises(ValueError, match=r"average_views='mean': choose 'prob' .* or 'score'"):
        build(average_views='mean')


@pytest.mark.parametrize('shift', ['bidirectional', 'unidirectional', None])
def test_every_parameter_gets_a_gradient(shift: str | None) -> None:
    """But for those that something behind them silences, and no others: here a single latent token is left in stage 4."""
    model = build(backbone=dict(temporal_shift=shift)).double().train()
    total, _ = model.parse_losses(model(clips().double(), labelled(0, 3, 7), mode='loss'))
    total.backward()
    single_key = {f'blocks.3.0.attention.{part}_proj.weight' for part in 'qk'}
    for writer in ('z2x.2', 'last_z2x'):
        single_key |= {f'{writer}.cross_attn.attention.{part}_proj.weight' for part in 'qk'}
        single_key |= {f'{writer}.cross_attn.q_norm.{part}' for part in ('weight', 'bias')}
    silent = silent_parameters(model)
    found = {name.removeprefix('backbone.latent_branch.') for name in silent if not name.endswith('.bias') or 'q_norm' in name}
    assert found == single_key
    assert_all_but_silent_learn(model, silent)


@pytest.mark.parametrize('scope', ['mmdet', 'mmengine', 'mmaction'])
def test_builds_from_a_foreign_default_scope(scope: str) -> None:
    """Hooks, metrics, data sets and models are found by their prefix, whatever project a config is run from."""
    with DefaultScope.overwrite_default_scope(scope):
        assert DefaultScope.get_current_instance().scope_name == scope
        model = build(loss=dict(type='dynperceiver.MultiExitLoss', distill_weight=0), data_preprocessor=dict(
            type='mmaction.ActionDataPreprocessor', mean=[0, 0, 0], std=[1, 1, 1], format_shape='NCHW'))
        model.init_weights()
        HOOKS.build(dict(type='dynperceiver.NonFiniteLossHook'))
        assert isinstance(MMACTION_MODELS.build(dict(type='dynperceiver.StaticTrunk', feature_branch='resnet18', width=0.125)), StaticTrunk)
    assert 'loss_distill' not in model(clips(), labelled(0, 1, 2), mode='loss')


def image_model(num_classes: int, width: float = 0.125) -> torch.nn.Module:
    arguments = {key: value for key, value in BACKBONE.items() if key not in ('num_frames', 'feature_branch', 'width')}
    model = build_model('resnet18', width=width, num_classes=num_classes, **arguments)
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            value.add_(torch.rand_like(value)) if value.is_floating_point() else value.fill_(77)
    return model


@pytest.mark.parametrize('names', ['ours', 'authors'])
def test_starts_from_an_image_checkpoint(tmp_path: Path, names: str) -> None:
    """All tensors of a trained image model arrive, but for those whose shape depends on the classes."""
    image = image_model(num_classes=5)
    if names == 'ours':
        save_state_dict(image.state_dict(), tmp_path / 'image.pth')
    else:
        reference = {f'module.{key}': value for key, value in convert_to_reference(image.state_dict()).items()}
        torch.save({'model': {key: torch.zeros_like(value) for key, value in reference.items()}, 'model_ema': reference, 'epoch': 3},
                   tmp_path / 'image.pth')
    model = build(init_cfg=dict(type='dynperceiver.ImageCheckpoint', checkpoint=str(tmp_path / 'image.pth')))
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    model.init_weights()
    after, given = model.backbone.state_dict(), image.state_dict()
    assert set(after) == set(given)
    of_classes = {key for key in given if given[key].shape != after[key].shape}
    heads = {f'exits.{i}.classifier.{part}' for i in (0, 1, 2) for part in ('weight', 'bias')}
    assert of_classes == heads | {'exits.3.classifier.1.weight', 'exits.3.classifier.1.bias'} | {
        'exits.1.fkt.0.weight', 'exits.3.fkt.0.weight'}
    for key in given:
        torch.testing.assert_close(after[key], before[key] if key in of_classes else given[key], rtol=0, atol=0)


def test_image_checkpoint_of_equal_classes_arrives_whole(tmp_path: Path) -> None:
    image = image_model(num_classes=NUM_CLASSES)
    save_state_dict(image.state_dict(), tmp_path / 'image.pth')
    model = build(init_cfg=dict(type='dynperceiver.ImageCheckpoint', checkpoint=str(tmp_path / 'image.pth')))
    model.init_weights()
    for key, value in image.state_dict().items():
        torch.testing.assert_close(model.backbone.state_dict()[key], value, rtol=0, atol=0)


def test_image_checkpoint_of_another_variant_is_refused(tmp_path: Path) -> None:
    save_state_dict(image_model(num_classes=5, width=0.25).state_dict(), tmp_path / 'wide.pth')
    model = build(init_cfg=dict(type='dynperceiver.ImageCheckpoint', checkpoint=str(tmp_path / 'wide.pth')))
    with pytest.raises(ValueError, match=r'wide\.pth: the checkpoint is of another variant.*width, .* must be equal; use the config'):
        model.init_weights()


def test_missing_image_checkpoint_is_named(tmp_path: Path) -> None:
    model = build(init_cfg=dict(type='dynperceiver.ImageCheckpoint', checkpoint=str(tmp_path / 'none.pth')))
    with pytest.raises(FileNotFoundError, match=r'none\.pth is missing'):
        model.init_weights()


@pytest.mark.parametrize(('shift', 'sees_order'), [('bidirectional', True), ('unidirectional', True), (None, False)])
def test_only_the_shift_tells_a_clip_from_its_reverse(shift: str | None, sees_order: bool) -> None:
    model = build(backbone=dict(temporal_shift=shift)).eval()
    videos = clips(2)
    with torch.no_grad():
        forwards, backwards = model.backbone(videos.flatten(0, 1)), model.backbone(videos.flip(1).flatten(0, 1))
    for one, other in zip(forwards, backwards, strict=True):
        distance = float((one - other).abs().max() / one.abs().max())
        assert (distance > 1e-3) if sees_order else (distance < 1e-4)


def test_videos_of_a_batch_do_not_see_each_other() -> None:
    model = build().eval()
    videos = clips(3)
    with torch.no_grad():
        together = model(videos, labelled(0, 1, 2), mode='predict')
        alone = model(videos[1:2], labelled(1), mode='predict')
    torch.testing.assert_close(together[1].exit_scores, alone[0].exit_scores)


def test_preprocessor_gives_the_network_what_the_pipeline_packs() -> None:
    """One (T, C, H, W) uint8 clip per video goes in, a normalised (N, T, C, H, W) batch comes out."""
    model = build(data_preprocessor=dict(type='mmaction.ActionDataPreprocessor', mean=[100.0] * 3, std=[50.0] * 3, format_shape='NCHW'))
    videos = [torch.full((NUM_FRAMES, 3, 32, 32), level, dtype=torch.uint8) for level in (100, 150)]
    batch = dict(inputs=videos, data_samples=labelled(0, 1))
    data = model.data_preprocessor(batch)
    assert data['inputs'].shape == (2, NUM_FRAMES, 3, 32, 32)
    assert data['inputs'][0].unique().tolist() == [0] and data['inputs'][1].unique().tolist() == [1]
    assert len(model.test_step(batch)) == 2


def test_checkpoint_goes_back_in_through_mmengine(tmp_path: Path) -> None:
    model, other = build(), build()
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'own.pth')
    runner = Runner(other, work_dir=str(tmp_path), load_from=str(tmp_path / 'own.pth'), experiment_name='reload')
    runner.load_checkpoint(str(tmp_path / 'own.pth'), strict=True)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(other.state_dict()[key], value, rtol=0, atol=0)
