"""Build MMEngine's runner from a merged config, on GPUs or on CPU."""

from __future__ import annotations

import torch
import torch.distributed as torch_dist
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from dynperceiver_runtime.files import make_folders

from ..hooks import CheckpointFileHook, SplitRecordHook
from .configs import require_model

__all__ = ['build_runner', 'leave_config_unformatted', 'prepare_cpu_processes']


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


def leave_config_unformatted(cfg: Config) -> None:
    """Have MMEngine write a config as it prints it, one setting per line, instead of passing the text through yapf.

    A run writes its config into its work dir, its logs, TensorBoard and every checkpoint. yapf takes two seconds of CPU time for each, more
    than a short training; the text means the same without it. Copies of the config are left unformatted, too.

    Args:
        cfg: The config of a run. MMEngine 0.10.7 takes ``format_python_code`` in ``Config.fromfile`` but keeps it for configs with
            ``read_base()`` alone, hence the attribute.
    """
    object.__setattr__(cfg, '_format_python_code', False)


def build_runner(cfg: Config) -> Runner:
    """Runner of a config, of the config's own ``runner_type`` where it names one; it names the checkpoint file that it cannot load.

    What a checkpoint needs to be calibrated is kept in it; see :class:`~dynperceiver.hooks.SplitRecordHook`.

    Raises:
        UsageError: If the config has no model.
        FileError: If its work dir cannot be made.
    """
    require_model(cfg)
    if cfg.get('work_dir'):
        make_folders(cfg.work_dir, 'work dir')
    leave_config_unformatted(cfg)
    prepare_cpu_processes(cfg)
    runner: Runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    for kind in (CheckpointFileHook, SplitRecordHook):
        if not any(isinstance(hook, kind) for hook in runner.hooks):
            runner.register_hook(kind())
    return runner
