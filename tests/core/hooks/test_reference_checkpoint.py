"""The authors' files under MMEngine's runner, as they are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from core_models import narrow_model
from mmengine.model import BaseTTAModel, MMDistributedDataParallel
from mmengine.runner.loops import BaseLoop
from tiny_loading import TinyModel, load_with, make_runner, reference_weights, scores_of, scores_of_test, text_of_log
from torch import Tensor, nn

from dynperceiver import build_static_trunk
from dynperceiver.checkpoint import CheckpointError, convert_from_reference, convert_to_trunk
from dynperceiver.hooks import ReferenceCheckpointHook
from dynperceiver.models import StaticTrunk

HOOK = {'type': 'dynperceiver.ReferenceCheckpointHook'}
EMA = {'type': 'EMAHook', 'momentum': 0.5}


@pytest.fixture(scope='module')
def weights() -> dict[str, dict[str, Tensor]]:
    """What an authors' file has: two sets of weights."""
    return {name: reference_weights(narrow_model(), seed=name) for name in ('model', 'model_ema')}


@pytest.fixture(scope='module')
def file(weights: dict[str, dict[str, Tensor]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('authors') / 'published.pth'
    torch.save({**weights, 'optimizer': {'state': {}}, 'epoch': 299}, path)
    return path


def network_with(reference: dict[str, Tensor]) -> nn.Module:
    network = narrow_model(dtype=torch.float32)
    network.load_state_dict(convert_from_reference(reference))
    return network


def same(network: nn.Module, reference: dict[str, Tensor], names: Any = None) -> bool:
    own, given = network.state_dict(), convert_from_reference(reference)
    return all(torch.equal(own[key], given[key]) for key in (own if names is None else names))


class Flipping(BaseTTAModel):
    def merge_preds(self, data_samples_list: list[Any]) -> list[Any]:
        return data_samples_list[0]


def distributed(model: nn.Module) -> nn.Module:
    """A model as in distributed training, without its processes."""
    wrapper = MMDistributedDataParallel.__new__(MMDistributedDataParallel)
    nn.Module.__init__(wrapper)
    wrapper.module = model
    return wrapper


@pytest.mark.parametrize('hooks', [[], [EMA]], ids=['plain', 'ema'])
@pytest.mark.parametrize('choice', [None, 'model', 'model_ema'])
def test_a_test_is_one_of_the_converted_weights(
    weights: dict[str, dict[str, Tensor]],
    file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    hooks: list[Any],
    choice: str | None,
) -> None:
    """Where the config averages weights, too, the averaged ones are tested: they are the same, whatever the order of the hooks."""
    custom = [*hooks, {**HOOK, **({'weights': choice} if choice else {})}]
    runner = make_runner(tmp_path, TinyModel(), file, custom_hooks=custom)
    expected = {name: scores_of(network_with(reference)) for name, reference in weights.items()}
    assert not torch.allclose(expected['model'], expected['model_ema'], atol=0.1)
    taken = choice or 'model_ema'
    torch.testing.assert_close(scores_of_test(runner), expected[taken], rtol=1e-5, atol=1e-5)
    (line,) = [line for line in text_of_log(runner).splitlines() if 'converted on the fly' in line]
    other = 'model' if taken == 'model_ema' else 'model_ema'
    assert f"published.pth: the authors' weights under {taken} (it also has {other}, which the hook's option weights chooses)" in line
    assert line.endswith(f'{len(weights["model"])} tensors, converted on the fly into backbone of the model')
    assert 'do not match exactly' not in capsys.readouterr().out


def test_without_the_hook_such_a_file_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='holds no weights of this network'):
        make_runner(tmp_path, TinyModel(), file).test()


def test_a_training_starts_from_it(weights: dict[str, dict[str, Tensor]], file: Path, tmp_path: Path) -> None:
    model = TinyModel()
    make_runner(tmp_path, model, file, custom_hooks=[HOOK]).train()  # with a learning rate of 0
    names = [name for name, _ in model.backbone.named_parameters()]
    assert same(model.backbone, weights['model_ema'], names)
    assert (tmp_path / 'iter_2.pth').is_file()


def test_it_cannot_be_resumed_from(file: Path, tmp_path: Path) -> None:
    runner = make_runner(tmp_path, TinyModel(), file, custom_hooks=[HOOK], resume=True)
    with pytest.raises(CheckpointError, match=r'published\.pth cannot be resumed from: .*no epoch, optimizer.*load_from=FILE'):
        runner.train()


@pytest.mark.parametrize('form', ['plain', 'model', 'state_dict', 'distributed'])
def test_all_forms_of_file(weights: dict[str, dict[str, Tensor]], form: str) -> None:
    reference = weights['model']
    forms: dict[str, Any] = {
        'plain': dict(reference),
        'model': {'model': reference},
        'state_dict': {'state_dict': reference, 'meta': {'epoch': 3}},
        'distributed': {'model': {f'module.{key}': value for key, value in reference.items()}},
    }
    checkpoint, model = forms[form], TinyModel()
    load_with(ReferenceCheckpointHook(), model, checkpoint)
    assert same(model.backbone, reference)
    assert set(checkpoint) == {'meta', 'state_dict'}, 'nothing of the old names is left'
    assert checkpoint['meta'] == ({'epoch': 3} if form == 'state_dict' else {})


@pytest.mark.parametrize(
    'wrap',
    [
        lambda network: network,
        TinyModel,
        lambda network: Flipping(TinyModel(network)),
        lambda network: TinyModel(TinyModel(network)),
        lambda network: distributed(TinyModel(network)),
    ],
    ids=['bare', 'backbone', 'test-time augmentation', 'deeper', 'distributed'],
)
@pytest.mark.parametrize('num_frames', [1, 4], ids=['image', 'clip'])
def test_wherever_the_network_stands(weights: dict[str, dict[str, Tensor]], wrap: Any, num_frames: int) -> None:
    network = narrow_model(dtype=torch.float32, num_frames=num_frames)
    model, checkpoint = wrap(network), {'model': weights['model']}
    load_with(ReferenceCheckpointHook(), model, checkpoint)
    assert same(network, weights['model'])
    while isinstance(model, BaseTTAModel | MMDistributedDataParallel):  # EMAHook loads without them, too
        model = model.module
    assert list(checkpoint['state_dict']) == list(model.state_dict())


def test_a_file_of_a_bare_network_gets_the_prefix(weights: dict[str, dict[str, Tensor]], tmp_path: Path) -> None:
    model = TinyModel()
    load_with(ReferenceCheckpointHook(), model, {'state_dict': convert_from_reference(weights['model'])})
    assert same(model.backbone, weights['model'])


def test_our_own_files_are_left_alone() -> None:
    model = TinyModel()
    for own, place in ((TinyModel(), model), (narrow_model(dtype=torch.float32), model.backbone)):
        checkpoint = {'state_dict': own.state_dict(), 'message_hub': {}, 'meta': {'epoch': 1}}
        before = dict(checkpoint)
        load_with(ReferenceCheckpointHook('model_ema'), place, checkpoint)
        assert checkpoint == before and checkpoint['state_dict'] is before['state_dict']


def detector() -> TinyModel:
    backbone = narrow_model(dtype=torch.float32, num_classes=None)
    return TinyModel(backbone, nn.Linear(2, 2))


def test_the_rest_of_a_detector_starts_as_it_is(
    weights: dict[str, dict[str, Tensor]], file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = detector()
    runner = make_runner(tmp_path, model, file, custom_hooks=[HOOK])
    runner.train()
    assert same(model.backbone, weights['model_ema'], [name for name, _ in model.backbone.named_parameters()])
    line = 'published.pth has the image network only; 2 tensors of TinyModel are not in it (head) and keep their initial values'
    assert line in text_of_log(runner)
    printed = capsys.readouterr().out
    assert 'missing keys in source state_dict: head.weight, head.bias' in printed
    assert 'unexpected key' not in printed, 'exits are left out, not found strange'


def test_the_rest_of_a_detector_is_not_tested_at_random(file: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r'published\.pth .*2 tensors of TinyModel.*\(head\).*random in the test\. Train the model'):
        make_runner(tmp_path, detector(), file, custom_hooks=[HOOK]).test()
    with pytest.raises(CheckpointError, match='random in the test'):
        make_runner(tmp_path / 'val', detector(), file, custom_hooks=[HOOK]).val()


def test_loops_tell_a_training_from_a_test(weights: dict[str, dict[str, Tensor]]) -> None:
    loop = BaseLoop.__new__(type('Loop', (BaseLoop,), {'run': lambda self: None}))
    for state in ({}, {'_train_loop': loop}, {'_train_loop': loop, '_val_loop': loop}, {'_test_loop': {'type': 'TestLoop'}}):
        model = detector()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        load_with(ReferenceCheckpointHook(), model, {'model': weights['model']}, **state)
        changed = {key.partition('.')[0] for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
        assert changed == {'backbone'}, 'loaded with a warning, as for a training'


@pytest.mark.parametrize(
    ('model', 'change', 'message'),
    [
        (nn.Sequential(nn.Linear(2, 2)), {}, r'Sequential has 0 such networks.*dynperceiver\.ImageCheckpoint'),
        (nn.Sequential(narrow_model(), narrow_model()), {}, r'Sequential has 2 such networks; '),
        (narrow_model(), {'head.weight': torch.ones(1)}, r'1 of \d+ keys are not among the authors. names: head\.weight'),
        (narrow_model(num_latents=8), {}, r'16 latent tokens of 8 channels, the model 8'),
    ],
    ids=['no network', 'two', 'strange key', 'other variant'],
)
def test_what_does_not_fit(weights: dict[str, dict[str, Tensor]], model: nn.Module, change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_with(ReferenceCheckpointHook(), model, {'model': {**weights['model'], **change}})


def test_weights_that_are_not_there(weights: dict[str, dict[str, Tensor]]) -> None:
    with pytest.raises(CheckpointError, match=r"folder/some\.pth: the checkpoint has no weights named 'model_ema'; it holds: model"):
        load_with(ReferenceCheckpointHook('model_ema'), TinyModel(), {'model': weights['model']})
    with pytest.raises(CheckpointError, match=r'folder/some\.pth: no weights were found among optimizer, epoch'):
        load_with(ReferenceCheckpointHook(), TinyModel(), {'optimizer': {}, 'epoch': 3})


@pytest.fixture(scope='module')
def torchvision_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[StaticTrunk, Path]:
    """A narrow baseline, and its file under torchvision's names."""
    torch.manual_seed(0)
    trunk = build_static_trunk('resnet18', width=0.125, num_classes=5).eval()
    path = tmp_path_factory.mktemp('torchvision') / 'resnet18.pth'
    torch.save(convert_to_trunk(trunk.state_dict(), 'torchvision'), path)
    return trunk, path


def test_a_baseline_takes_another_librarys_file(torchvision_file: tuple[StaticTrunk, Path], tmp_path: Path) -> None:
    trunk, path = torchvision_file
    runner = make_runner(tmp_path, TinyModel(build_static_trunk('resnet18', width=0.125, num_classes=5)), path, custom_hooks=[HOOK])
    torch.testing.assert_close(scores_of_test(runner), scores_of(trunk), rtol=1e-5, atol=1e-5)
    (line,) = [line for line in text_of_log(runner).splitlines() if 'converted on the fly' in line]
    assert line.endswith('a CNN under the names of torchvision and timm, 122 tensors, converted on the fly into backbone of the model')


def test_a_dyn_perceiver_cannot_be_tested_with_a_cnn_alone(torchvision_file: tuple[StaticTrunk, Path], tmp_path: Path) -> None:
    runner = make_runner(tmp_path, TinyModel(), torchvision_file[1], custom_hooks=[HOOK])
    pattern = r'resnet18\.pth has the weights of a CNN alone, but TinyModel has 0 backbone-only baselines; .*dynperceiver\.ImageCheckpoint'
    with pytest.raises(CheckpointError, match=pattern):
        runner.test()


def test_a_model_without_a_network_of_ours_keeps_its_own_names(torchvision_file: tuple[StaticTrunk, Path]) -> None:
    given = torch.load(torchvision_file[1], weights_only=True)
    checkpoint = {'state_dict': dict(given)}
    ReferenceCheckpointHook().after_load_checkpoint(SimpleNamespace(model=nn.Linear(1, 1), hooks=[], _has_loaded=True), checkpoint)
    assert checkpoint['state_dict'].keys() == given.keys()
