"""A checkpoint's class names against the data set's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_loading import CLASSES, Images, TinyModel, make_runner, text_of_log
from torch.utils.data import ConcatDataset

from dynperceiver.checkpoint import CheckpointError
from dynperceiver.hooks.class_names import _names

HOOK = {'type': 'dynperceiver.ClassNamesHook'}
SWAPPED = ('ant', 'bee', 'dog', 'cat', 'eel')
OTHERS = ('n01', 'n02', 'n03', 'n04', 'n05')


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a training on ``CLASSES``."""
    folder = tmp_path_factory.mktemp('trained')
    make_runner(folder, TinyModel(), None).train()
    return folder / 'iter_1.pth'


def without_names(trained: Path, target: Path) -> Path:
    checkpoint = torch.load(trained, weights_only=True)
    del checkpoint['meta']['dataset_meta']
    torch.save(checkpoint, target)
    return target


def run(action: str, work_dir: Path, checkpoint: Path, classes: Any, strict: bool = True, **changes: Any) -> str:
    """Test, validate, train or resume; returns what was logged."""
    hook = HOOK if strict else {**HOOK, 'strict': False}
    runner = make_runner(work_dir, TinyModel(), checkpoint, classes, custom_hooks=[hook], resume=action == 'resume', **changes)
    getattr(runner, 'train' if action == 'resume' else action)()
    return text_of_log(runner)


@pytest.mark.parametrize('action', ['test', 'val', 'resume'])
def test_other_names_are_refused(trained: Path, tmp_path: Path, action: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        run(action, tmp_path, trained, SWAPPED)
    text = str(caught.value)
    assert text.startswith(f'{trained} was trained on other classes than Images has (5 names in the checkpoint, 5 in the data set, ')
    assert "the same names in another order: class 2 is 'cat' there and 'dog' here; class 3 is 'dog' there and 'cat' here)" in text
    assert 'The names must be the same and in the same order' in text
    assert "Use the data set that it was trained on, or set the checkpoint's names in the config" in text
    assert ('start a new training from it with load_from' in text) == (action == 'resume')


def test_validation_data_must_have_the_classes_of_the_training_data(tmp_path: Path) -> None:
    def train(folder: str, classes: Any) -> None:
        validation = {'dataset': Images(classes), 'batch_size': 4, 'sampler': {'type': 'DefaultSampler', 'shuffle': False}}
        cfg = {'by_epoch': False, 'max_iters': 2, 'val_interval': 1}
        make_runner(tmp_path / folder, TinyModel(), None, custom_hooks=[HOOK], val_dataloader=validation, train_cfg=cfg).train()

    train('same', CLASSES)
    with pytest.raises(CheckpointError, match=r"other classes .*5 names in the training set, .*class 2 is 'cat' there and 'dog' here"):
        train('swapped', SWAPPED)
    assert not list((tmp_path / 'swapped').glob('*.pth')), 'said before anything is trained'


def test_the_first_differences_are_told(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"5 in the data set, class 0 is 'ant' there and 'n01' here; .*'n03' here; and 2 more\)"):
        run('test', tmp_path, trained, OTHERS)
    with pytest.raises(CheckpointError, match=r"4 in the data set, class 4 is 'eel' there and none here\)"):
        run('test', tmp_path / 'short', trained, CLASSES[:4])


@pytest.mark.parametrize('action', ['test', 'val', 'train', 'resume'])
def test_the_same_names_are_silent(trained: Path, tmp_path: Path, action: str) -> None:
    assert 'was trained on other classes' not in run(action, tmp_path, trained, CLASSES)


@pytest.mark.parametrize('action', ['test', 'resume'])
def test_without_names_there_is_nothing_to_compare(trained: Path, tmp_path: Path, action: str) -> None:
    assert 'was trained on' not in run(action, tmp_path / 'set', trained, None)
    assert 'was trained on' not in run(action, tmp_path / 'file', without_names(trained, tmp_path / 'nameless.pth'), OTHERS)


def test_a_new_training_is_warned_only(trained: Path, tmp_path: Path) -> None:
    """And its validations are of the new classes, which is nothing to refuse."""
    settings = {'by_epoch': False, 'max_iters': 2, 'val_interval': 1}
    text = run('train', tmp_path, trained, OTHERS, train_cfg=settings)
    (line,) = [line for line in text.splitlines() if 'was trained on other classes' in line]
    assert 'WARNING' in line and line.endswith('; the new training uses the names of the data set')
    assert '(val)' in text


@pytest.mark.parametrize('action', ['test', 'resume'])
def test_refusal_can_be_switched_off(trained: Path, tmp_path: Path, action: str) -> None:
    assert 'accepted, since ClassNamesHook has strict=False' in run(action, tmp_path, trained, OTHERS, strict=False)


def test_data_sets_within_wrappers(trained: Path, tmp_path: Path) -> None:
    both = ConcatDataset([Images(), Images(SWAPPED)])
    with pytest.raises(CheckpointError, match=r"class 2 is 'cat' there and 'dog' here"):
        run('test', tmp_path, trained, both)


def test_a_training_that_found_its_checkpoint_itself(trained: Path, tmp_path: Path) -> None:
    """``--resume`` without a file takes the newest in the work dir, and the message says which."""
    (tmp_path / 'last_checkpoint').write_text(str(trained))
    with pytest.raises(CheckpointError, match=rf'^{trained} was trained on other classes'):
        runner = make_runner(tmp_path, TinyModel(), None, SWAPPED, custom_hooks=[HOOK], resume=True)
        runner.train()


def test_a_script_that_loads_by_itself(trained: Path, tmp_path: Path) -> None:
    """What the checkpoint is for shows when it is used: resumed, or tested."""
    runner = make_runner(tmp_path / 'resumed', TinyModel(), None, SWAPPED, custom_hooks=[HOOK])
    runner.resume(str(trained))
    with pytest.raises(CheckpointError, match=r'^the checkpoint was trained on other classes'):
        runner.train()
    runner = make_runner(tmp_path / 'tested', TinyModel(), None, SWAPPED, custom_hooks=[HOOK])
    runner.load_checkpoint(str(trained))
    with pytest.raises(CheckpointError, match=r'^the checkpoint was trained on other classes'):
        runner.test()


def test_old_and_odd_spellings() -> None:
    assert _names({'CLASSES': ['a', 'b']}) == _names({'classes': ('a', 'b')}) == ('a', 'b')
    assert _names({'classes': ('0', '1', '2')}) == _names({'classes': range(3)}) == (), 'numbers are no names'
    assert _names({'classes': ('1', '0')}) == ('1', '0')
    assert _names({'classes': 'person'}) == ('person',)
    assert _names({'classes': None}) == _names({}) == _names(None) == ()
