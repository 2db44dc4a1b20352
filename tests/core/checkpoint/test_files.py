"""Reading and writing checkpoint files."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dynperceiver.checkpoint.files import CheckpointError, read_checkpoint_file, save_state_dict

WEIGHTS = {'feature_branch.stem.0.weight': torch.arange(3.0)}


def test_there_and_back_again(tmp_path: Path) -> None:
    path = tmp_path / 'weights.pth'
    save_state_dict(WEIGHTS, path)
    torch.testing.assert_close(read_checkpoint_file(path), {'state_dict': WEIGHTS})
    assert [entry.name for entry in tmp_path.iterdir()] == ['weights.pth'], 'nothing is left over'


def test_a_file_is_replaced_on_demand_only(tmp_path: Path) -> None:
    path = tmp_path / 'weights.pth'
    save_state_dict(WEIGHTS, path)
    with pytest.raises(FileExistsError, match=r'weights\.pth exists already; choose another name'):
        save_state_dict({}, path)
    torch.testing.assert_close(read_checkpoint_file(path)['state_dict'], WEIGHTS)
    save_state_dict({}, path, overwrite=True)
    assert read_checkpoint_file(path) == {'state_dict': {}}


def test_the_folder_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'checkpoint .*weights\.pth cannot be written: the folder .*no is missing; make it first'):
        save_state_dict(WEIGHTS, tmp_path / 'no' / 'weights.pth')


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'weights.pth'
    save_state_dict(WEIGHTS, path)

    def fail(checkpoint: dict[str, dict[str, Tensor]], file: Path) -> None:
        file.write_bytes(b'half')
        raise OSError('no space left')

    monkeypatch.setattr(torch, 'save', fail)
    with pytest.raises(OSError, match='no space left'):
        save_state_dict({}, path, overwrite=True)
    monkeypatch.undo()
    torch.testing.assert_close(read_checkpoint_file(path)['state_dict'], WEIGHTS)


@pytest.mark.parametrize('content', [b'', b'no checkpoint', b'PK\x03\x04 cut off'], ids=['empty', 'text', 'truncated'])
def test_what_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    (tmp_path / 'broken.pth').write_bytes(content)
    with pytest.raises(ValueError, match=r'broken\.pth cannot be read as a checkpoint \(.+\); download or copy it again') as caught:
        read_checkpoint_file(tmp_path / 'broken.pth')
    assert 'weights_only' not in str(caught.value)


def test_what_holds_no_mapping(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(ValueError, match=r'list\.pth holds a list, not a checkpoint; pass a file with a state dict'):
        read_checkpoint_file(tmp_path / 'list.pth')


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'gone\.pth is missing; check the path'):
        read_checkpoint_file(tmp_path / 'gone.pth')


def test_a_web_page_is_called_one(tmp_path: Path) -> None:
    (tmp_path / 'page.pth').write_text('<html><body>404</body></html>')
    with pytest.raises(CheckpointError, match=r'page\.pth cannot be read as a checkpoint \(it is a web page, probably from a failed'):
        read_checkpoint_file(tmp_path / 'page.pth')


def test_objects_besides_weights_are_not_a_broken_file(tmp_path: Path) -> None:
    torch.save({'model': WEIGHTS, 'scheduler': Fraction(1, 3)}, tmp_path / 'objects.pth')
    with pytest.raises(CheckpointError, match=r'it holds Python objects \(fractions\.Fraction\), .*Ask its author to save') as caught:
        read_checkpoint_file(tmp_path / 'objects.pth')
    assert 'download' not in str(caught.value) and 'add_safe_globals' not in str(caught.value)


@pytest.mark.parametrize('error', [MemoryError('all used'), torch.cuda.OutOfMemoryError('all used')])
def test_no_memory_is_not_a_broken_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    (tmp_path / 'large.pth').touch()
    monkeypatch.setattr(torch, 'load', fail)
    with pytest.raises(type(error), match='all used'):
        read_checkpoint_file(tmp_path / 'large.pth')


def test_a_full_disk_is_said_by_the_files_name(tmp_path: Path) -> None:
    """A limit on the size of files is the nearest thing to a full disk; the error that torch makes of it does not name the file."""
    code = f"""
import resource, torch
from dynperceiver.checkpoint import save_state_dict
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
save_state_dict({{'weight': torch.zeros(100_000)}}, {str(tmp_path / 'weights.pth')!r})
"""
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.stderr.splitlines()[-1].startswith(
        f'dynperceiver_runtime.errors.FileError: checkpoint {tmp_path / "weights.pth"} cannot be written ('
    )
    assert not list(tmp_path.iterdir())
