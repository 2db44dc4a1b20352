"""Reading and writing checkpoint files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import CheckpointLoader
from torch import Tensor

from .convert import convert_from_reference, is_reference_state_dict, unwrap_checkpoint

__all__ = ['read_checkpoint_file', 'read_state_dict', 'save_state_dict']

PARTS = ('feature_branch.', 'latent_branch.', 'exits.')


def _reason(error: Exception) -> str:
    """What went wrong in one line, without torch's advice to load anything from anywhere."""
    text = str(error).rpartition('WeightsUnpickler error:')[2].partition('Check the documentation of torch.load')[0]
    return f'{type(error).__name__}: {" ".join(text.split())}'.rstrip(': ')


def read_checkpoint_file(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint on the CPU.

    Args:
        path: A file, or a URL that MMEngine's checkpoint loader takes.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is no checkpoint.
    """
    path = str(path)
    if '://' not in path and not Path(path).is_file():
        raise FileNotFoundError(f'checkpoint {path} is missing; check the path, or train it first')
    try:
        checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    except Exception as error:
        raise ValueError(f'{path} cannot be read as a checkpoint ({_reason(error)}); download or copy it again') from error
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f'{path} holds a {type(checkpoint).__name__}, no checkpoint; pass a file with a state dict')
    return dict(checkpoint)


def read_state_dict(path: str | Path, weights: str | None = None) -> dict[str, Tensor]:
    """Read a network's state dict, under our names, from a file: ours (also from within a recognizer or detector) or the authors'.

    A file of a static trunk, which has a feature branch alone, is read, too.

    Args:
        path: See :func:`read_checkpoint_file`.
        weights: See :func:`~dynperceiver.checkpoint.unwrap_checkpoint`.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it holds no Dyn-Perceiver weights.
    """
    state_dict = unwrap_checkpoint(read_checkpoint_file(path), weights)
    if is_reference_state_dict(state_dict):
        return convert_from_reference(state_dict)
    marker = next((key for key in state_dict if 'feature_branch.stem.' in key), None)
    if marker is None:
        raise ValueError(
            f'{path} holds no Dyn-Perceiver: no key has feature_branch.stem. in it (its first key is {next(iter(state_dict))}); '
            "pass one of our checkpoints or of the authors'"
        )
    prefix = marker.partition('feature_branch.stem.')[0]
    own = {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
    return {key: value for key, value in own.items() if key.startswith(PARTS)}


def save_state_dict(state_dict: Mapping[str, Tensor], path: str | Path, overwrite: bool = False) -> None:
    """Write a state dict as ``{'state_dict': ...}``, whole or not at all.

    Raises:
        FileExistsError: If the file exists and ``overwrite`` is off.
        FileNotFoundError: If its folder is missing.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f'{path} exists already; choose another name or pass --overwrite')
    if not path.parent.is_dir():
        raise FileNotFoundError(f'folder {path.parent} for {path.name} is missing; make it first')
    partial = path.with_name(f'.{path.name}.partial')
    torch.save({'state_dict': dict(state_dict)}, partial)
    os.replace(partial, path)
