"""Build MMEngine's runner from a merged config, on GPUs or on CPU."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
import torch.distributed as torch_dist
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..data import BadSampleError, DatasetError
from ..hooks import CheckpointError, CheckpointFileHook, SplitRecordHook
from ..inference import BackendError, PolicyError
from .options import UsageError

__all__ = ['build_runner', 'prepare_cpu_processes', 'run_tool']


def prepare_cpu_processes(cfg: Config) -> None:
    """Let several processes train without a GPU: gloo instead of NCCL, and no GPU number for the model wrapper.

    MMEngine selects a GPU per process before it joins them; on a machine without one the processes are joined here instead.
    """
    if cfg.get('launcher', 'none') != 'pytorch' or torch.cuda.is_available():
        return
    cfg.merge_from_dict({'env_cfg.dist_cfg.backend': 'gloo'})
    if cfg.get('model_wrapper_cfg') is None:
        cfg.model_wrapper_cfg = dict(
            type='mmengine.MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )
    if not torch_dist.is_initialized():
        torch_dist.init_process_group('gloo')


def build_runner(cfg: Config) -> Runner:
    """Runner of a config, of the config's own ``runner_type`` where it names one; it names the checkpoint file that it cannot load.

    What a checkpoint needs to be calibrated is kept in it; see :class:`~dynperceiver.hooks.SplitRecordHook`.
    """
    prepare_cpu_processes(cfg)
    runner: Runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    for kind in (CheckpointFileHook, SplitRecordHook):
        if not any(isinstance(hook, kind) for hook in runner.hooks):
            runner.register_hook(kind())
    return runner


def run_tool(main: Callable[[], None], *expected: type[Exception]) -> None:
    """Run a tool's main function; what its user can put right ends it with the message alone, since no traceback would say more.

    That is a missing file, one that must not be overwritten, a checkpoint, an exit policy or data that cannot be used, and a command line
    that cannot be followed.

    Args:
        main: The tool.
        expected: Further exceptions of this kind.
    """
    data: tuple[type[Exception], ...] = (DatasetError, BadSampleError)
    files: tuple[type[Exception], ...] = (FileNotFoundError, FileExistsError, CheckpointError, PolicyError, BackendError)
    caught: tuple[type[Exception], ...] = (*files, UsageError, *data, *expected)
    try:
        main()
    except caught as error:
        # What a DataLoader's worker raised comes with the worker's traceback, whose last line begins with the error's name.
        text = str(error)
        sys.exit(f'error: {text.rpartition(f"{type(error).__name__}: ")[2] if isinstance(error, data) else text}')
