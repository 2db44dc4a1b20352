"""Reading and writing checkpoint files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import CheckpointLoader
from torch import Tensor

from dynperceiver_runtime import ExistingFileError, FileError, MissingFileError, UserError
from dynperceiver_runtime.files import replacing

from ..structures import PARTS
from . import pretrained  # noqa: F401  MMEngine's loader learns the scheme pretrained://
from .convert import convert_from_reference, is_reference_state_dict, unwrap_checkpoint
from .errors import CheckpointError
from .trunk_names import TrunkNames, convert_from_trunk, find_trunk_names

__all__ = ['CheckpointError', 'read_checkpoint_file', 'read_state_dict', 'read_weights', 'save_state_dict', 'unreadable_checkpoint']


def _beginning(path: str) -> bytes:
    try:
        with open(path, 'rb') as file:
            return file.read(64).lstrip().lower()
    except OSError:  # a URL
        return b''


def unreadable_checkpoint(path: str | Path, error: Exception) -> UserError:
    """The error to raise when a checkpoint cannot be read: it says what is wrong with the file, without torch's advice to load it unsafely.

    Args:
        path: The file, or a URL.
        error: What reading it raised.
    """
    path, text, beginning = str(path), str(error), _beginning(str(path))
    if isinstance(error, FileNotFoundError):
        return MissingFileError(f'checkpoint {path} is missing; check the path, or train it first')
    if isinstance(error, OSError):
        return CheckpointError(f'{path} cannot be read ({type(error).__name__}: {text}); check the path and who may read it')
    foreign = re.search(r'Unsupported global: GLOBAL (\S+)', text)
    if foreign:
        return CheckpointError(
            f'{path} cannot be read as a checkpoint: it holds Python objects ({foreign[1]}), and only weights and plain data are read, '
            'since loading objects can run code. Ask its author to save the weights alone: '
            "torch.save({'state_dict': model.state_dict()}, path)"
        )
    if beginning.startswith((b'<!doctype', b'<html')):
        reason = 'it is a web page, probably from a failed download'
    elif beginning.startswith(b'version https://git-lfs'):
        reason = 'it is a Git LFS pointer, not the file itself; fetch it with git lfs pull'
    else:
        text = text.rpartition('WeightsUnpickler error:')[2].partition('Check the documentation of torch.load')[0]
        text = text.partition('This is an internal miniz error')[0]
        reason = f'{type(error).__name__}: {" ".join(text.split())}'.rstrip(': .')
    return CheckpointError(f'{path} cannot be read as a checkpoint ({reason}); download or copy it again')


def read_checkpoint_file(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint on the CPU.

    Args:
        path: A file, a URL that MMEngine's checkpoint loader takes, or ``pretrained://NAME``; see
            :data:`~dynperceiver.checkpoint.PRETRAINED`.

    Raises:
        MissingFileError: If the file is missing.
        MissingPackageError: If the package with the published weights is not installed.
        CheckpointError: If it is no checkpoint.
    """
    path = str(path)
    if '://' not in path and not Path(path).is_file():
        raise unreadable_checkpoint(path, FileNotFoundError())
    try:
        checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    except (UserError, MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        raise unreadable_checkpoint(path, error) from error
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(f'{path} holds a {type(checkpoint).__name__}, not a checkpoint; pass a file with a state dict')
    return dict(checkpoint)


def read_state_dict(path: str | Path, weights: str | None = None) -> dict[str, Tensor]:
    """Read a network's state dict, under our names, from a file: ours (also from within a recognizer or detector) or the authors'.

    A file of a backbone-only baseline, whose network is a feature branch, is read, too, and so is that of such a CNN in another library
    (see :data:`~dynperceiver.checkpoint.TRUNK_NAMES`).

    Args:
        path: See :func:`read_checkpoint_file`.
        weights: See :func:`~dynperceiver.checkpoint.unwrap_checkpoint`.

    Raises:
        MissingFileError: If the file is missing.
        UserError: If it holds no Dyn-Perceiver weights.
    """
    return read_weights(path, weights)[0]


def read_weights(path: str | Path, weights: str | None = None) -> tuple[dict[str, Tensor], TrunkNames | None]:
    """As :func:`read_state_dict`, and whose names the file had if it is another library's; ``None`` for ours and the authors'.

    Args:
        path: See :func:`read_checkpoint_file`.
        weights: See :func:`~dynperceiver.checkpoint.unwrap_checkpoint`.

    Raises:
        MissingFileError: If the file is missing.
        UserError: If it holds no Dyn-Perceiver weights.
    """
    state_dict = unwrap_checkpoint(read_checkpoint_file(path), weights)
    if is_reference_state_dict(state_dict):
        return convert_from_reference(state_dict), None
    names = find_trunk_names(state_dict)
    if names is not None:
        return convert_from_trunk(state_dict), names
    marker = next((key for key in state_dict if 'feature_branch.stem.' in key), None)
    if marker is None:
        raise UserError(
            f'{path} has no weights of a Dyn-Perceiver: no key contains feature_branch.stem. (the first one is {next(iter(state_dict))}); '
            'pass a checkpoint of this project or of the authors, or a CNN of torchvision or timm that is one of the feature branches'
        )
    prefix = marker.partition('feature_branch.stem.')[0]
    own = {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
    return {key: value for key, value in own.items() if key.startswith(PARTS)}, None


def save_state_dict(state_dict: Mapping[str, Tensor], path: str | Path, overwrite: bool = False) -> None:
    """Write a state dict as ``{'state_dict': ...}``, whole or not at all.

    Raises:
        ExistingFileError: If the file exists and ``overwrite`` is off.
        FileError: If it cannot be written, for example since its folder is missing.
    """
    if Path(path).is_file() and not overwrite:
        raise ExistingFileError(f'{path} exists already; choose another name or pass --overwrite')
    with replacing(path, 'checkpoint') as partial:
        try:
            torch.save({'state_dict': dict(state_dict)}, partial)
        except RuntimeError as error:  # what torch makes of a full disk
            raise FileError(f'checkpoint {path} cannot be written ({" ".join(str(error).split())}); is there space left?') from error
