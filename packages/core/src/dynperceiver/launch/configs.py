"""Reading configs: what their author can mend is said in one line, whatever MMEngine says of it."""

from __future__ import annotations

import importlib.util
import os
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.config.utils import ConfigParsingError

from dynperceiver_runtime import MissingFileError, MissingPackageError, UserError

from .arguments import UsageError
from .tasks import task_of

__all__ = ['checkpoint_config', 'let_no_workers_persist', 'merge_options', 'read_config', 'require_model', 'start_config']


def read_config(path: str | Path, cfg_options: Mapping[str, Any] | None = None) -> Config:
    """Read a config file; what its ``custom_imports`` name is imported.

    Args:
        path: The file.
        cfg_options: See :func:`merge_options`.

    Raises:
        MissingFileError: If it, or one that it inherits from, is missing.
        MissingPackageError: If it names a package that is not installed.
        UserError: If there is a mistake in it.
        UsageError: If ``cfg_options`` do not go with it.
    """
    if not Path(path).is_file():
        raise MissingFileError(f'config {path} is missing; the configs that come with the project are below configs/')
    try:
        cfg = Config.fromfile(path)
    except ImportError as error:
        missing = _missing_package(error)
        if missing is None:
            raise
        raise MissingPackageError(
            f'config {path} needs {missing}, which is not installed; install it, or for a folder of your own set PYTHONPATH to the one '
            'that it lies in (python -m dynperceiver.doctor looks at the installation)'
        ) from error
    except (SyntaxError, ConfigParsingError) as error:
        raise UserError(f'config {path} cannot be read: {_one_line(error)}; correct it') from error
    except (KeyError, TypeError, OSError) as error:
        if not _is_complaint_of_mmengine(error):
            raise
        if isinstance(error, FileNotFoundError):
            raise MissingFileError(f'config {path} inherits from a file that is missing ({error}); correct _base_') from error
        raise UserError(f'config {path} cannot be read: {_one_line(error)}; correct it') from error
    task_of(cfg)  # imports the task's package, which repairs what its OpenMMLab project needs, also for a config that does not name it
    return merge_options(cfg, cfg_options)


def merge_options(cfg: Config, cfg_options: Mapping[str, Any] | None) -> Config:
    """Override settings of a config, which is returned.

    Args:
        cfg: The config; it changes.
        cfg_options: What ``--cfg-options`` gave: values by dotted names.

    Raises:
        UsageError: If a name leads into something that has no settings.
    """
    try:
        cfg.merge_from_dict(dict(cfg_options or {}))
    except (TypeError, KeyError, AttributeError) as error:
        given = ' '.join(f'{key}={value}' for key, value in (cfg_options or {}).items())
        raise UsageError(f'--cfg-options {given} do not fit {cfg.filename}: {_one_line(error)}; correct the names') from error
    return cfg


def start_config(path: str | Path, work_dir: str | None = None, launcher: str = 'none', local_rank: int = 0) -> Config:
    """Config of a run, with its work dir: ``work_dir``, else the config's own, else ``work_dirs/CONFIG_NAME``.

    Args:
        path: The config file.
        work_dir: Where logs and results go.
        launcher: How the processes were started.
        local_rank: Number of this process on its machine, where the launcher did not put it into the environment.
    """
    os.environ.setdefault('LOCAL_RANK', str(local_rank))
    cfg = read_config(path)
    cfg.launcher = launcher
    if work_dir is not None:
        cfg.work_dir = str(work_dir)
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(path).stem)
    return cfg


def checkpoint_config(
    path: str | Path, checkpoint: str, cfg_options: Mapping[str, Any] | None = None, work_dir: str | None = None, **start: Any
) -> Config:
    """Config of a test of a checkpoint.

    Args:
        path: The config file.
        checkpoint: Checkpoint file, or a URL.
        cfg_options: See :func:`merge_options`.
        work_dir: Where logs and results go, see :func:`start_config`.
        start: The other arguments of :func:`start_config`.

    Raises:
        MissingFileError: If the config or the checkpoint is missing.
        UserError: See :func:`read_config`.
    """
    cfg = start_config(path, work_dir, **start)
    if '://' not in checkpoint and not Path(checkpoint).is_file():
        raise MissingFileError(f'checkpoint {checkpoint} is missing; train one with tools/train.py {path}')
    cfg.load_from = checkpoint
    merge_options(cfg, cfg_options)
    let_no_workers_persist(cfg)
    return cfg


def require_model(cfg: Config) -> None:
    """Refuse a config without a model.

    Raises:
        UsageError: If it has none.
    """
    if cfg.get('model') is None:
        raise UsageError(f'{cfg.filename} has no model; pass the config of a training')


def let_no_workers_persist(cfg: Config) -> None:
    """``num_workers=0``, as people set it to debug, goes with no ``persistent_workers``, which torch would refuse."""
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader') or {}
        if loader.get('num_workers') == 0 and loader.get('persistent_workers'):
            loader['persistent_workers'] = False


def _one_line(error: BaseException) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return ' '.join(text.split()) or type(error).__name__


def _missing_package(error: BaseException | None) -> str | None:
    """The package that was not found, where that is why an import failed; ``None`` where a package that is there is at fault."""
    while error is not None:
        name = error.name if isinstance(error, ModuleNotFoundError) else None
        if name is not None:
            return None if importlib.util.find_spec(name.partition('.')[0]) else name
        error = error.__cause__ or error.__context__
    return None


def _is_complaint_of_mmengine(error: BaseException) -> bool:
    """Whether MMEngine raised it, and in words: what a config's own code raises has a traceback that says where."""
    frames = traceback.extract_tb(error.__traceback__)
    return 'mmengine' in Path(frames[-1].filename).parts and ' ' in _one_line(error)
