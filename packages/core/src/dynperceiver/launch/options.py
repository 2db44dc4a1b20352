"""Command lines of ``tools/train.py`` and ``tools/test.py``: the union of mmdet's and mmaction2's flags."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log

from dynperceiver_runtime import MissingFileError

from ..data import innermost_datasets
from ..hooks import read_exit_policy
from .arguments import UsageError, tool_parser
from .configs import checkpoint_config, let_no_workers_persist, merge_options, start_config
from .tasks import all_tasks, draw_settings, task_of, task_of_hook

__all__ = ['parse_test_args', 'parse_train_args', 'test_config', 'train_config']


def _common(description: str) -> argparse.ArgumentParser:
    parser = tool_parser(description, config='config file')
    parser.add_argument('--work-dir', help='folder for logs and results (default: work_dir of the config, or work_dirs/CONFIG_NAME)')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='how the processes are launched')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by the launcher')
    return parser


def parse_train_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line of training."""
    parser = _common('Train the model of a config, of any task. `make demo` shows a training that needs no data.')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume an interrupted run from the newest checkpoint in the work dir, or from the given one',
    )
    parser.add_argument('--amp', action='store_true', help='train with automatic mixed precision (GPU)')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate with the batch size, see auto_scale_lr of the config'
    )
    parser.add_argument('--no-validate', action='store_true', help='do not validate during training')
    parser.add_argument('--seed', type=int, help='random seed (default: that of the config)')
    parser.add_argument('--diff-rank-seed', action='store_true', help='use a different seed in each process')
    parser.add_argument('--deterministic', action='store_true', help='use deterministic GPU algorithms (slower)')
    return parser.parse_args(argv)


def parse_test_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line of testing."""
    parser = _common('Test a checkpoint and print the metrics of the config.')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', '--dump', dest='out', metavar='FILE.pkl', help='save the predictions to a pickle file')
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument('--show-dir', help='save pictures of the predictions to this folder')
    parser.add_argument('--interval', type=int, default=1, help='draw every N-th sample (default: %(default)s; detection draws all)')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds to show each picture (default: %(default)s)')
    parser.add_argument('--tta', action='store_true', help='use test-time augmentation (tta_model and tta_pipeline of the config)')
    dynamic = parser.add_argument_group(
        'dynamic inference',
        'Computation stops for each sample at the first exit that is confident enough. Reports accuracy, exit fractions, GFLOPs and '
        "milliseconds per sample of this test instead of the config's metrics. The batch size is that of the config; to measure "
        'latencies, add --cfg-options test_dataloader.batch_size=1.',
    )
    dynamic.add_argument('--exit-policy', metavar='POLICY.json', help='exit policy written by tools/calibrate.py')
    dynamic.add_argument(
        '--exit-backend',
        choices=['torch', 'onnxruntime'],
        help='what runs the network (default: torch); for onnxruntime it is exported first',
    )
    dynamic.add_argument(
        '--max-exit', type=int, metavar='N', help='last exit to use, counted from 1 (default: the last one of the network)'
    )
    return parser.parse_args(argv)


def train_config(args: argparse.Namespace) -> Config:
    """Config of a training with the flags merged in; ``--cfg-options`` have the last word.

    Raises:
        MissingFileError: If the config or the checkpoint to resume from is missing.
        UsageError: If a flag needs something that the config lacks.
    """
    cfg = start_config(args.config, args.work_dir, args.launcher, args.local_rank)
    if args.seed is not None or args.diff_rank_seed or args.deterministic:
        randomness = dict(cfg.get('randomness') or {})
        if args.seed is not None:
            randomness['seed'] = args.seed
        cfg.randomness = dict(
            randomness,
            diff_rank_seed=args.diff_rank_seed or randomness.get('diff_rank_seed', False),
            deterministic=args.deterministic or randomness.get('deterministic', False),
        )
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
        if cfg.load_from and '://' not in cfg.load_from and not Path(cfg.load_from).is_file():
            raise MissingFileError(
                f'checkpoint {cfg.load_from} to resume from is missing; --resume without a file takes the newest in the work dir'
            )
    merge_options(cfg, args.cfg_options)
    let_no_workers_persist(cfg)
    # What follows switches parts of the config on or off as a whole, whatever --cfg-options made of them.
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        ((cfg.get('default_hooks') or {}).get('checkpoint') or {}).pop('save_best', None)
    if args.amp:
        kind = cfg.optim_wrapper.get('type', 'OptimWrapper').rpartition('.')[2]
        if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
            raise UsageError(f'--amp cannot be combined with optim_wrapper of type {kind}; use OptimWrapper in the config')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise UsageError(
                '--auto-scale-lr needs the batch size that the learning rate was chosen for; write '
                'auto_scale_lr=dict(base_batch_size=...) in the config'
            )
        cfg.auto_scale_lr.enable = True
    return cfg


def _draw_predictions(cfg: Config, args: argparse.Namespace) -> None:
    hooks = cfg.setdefault('default_hooks', {})
    if hooks.get('visualization') is None:
        task = task_of(cfg)
        if task is None or not task.draws_unasked:
            known = '; '.join(f'for {one.name} dict(type={one.draw_hook!r})' for one in all_tasks() if not one.draws_unasked)
            raise UsageError(
                f'--show and --show-dir need a hook that draws, and the config has none; add default_hooks.visualization: {known}'
            )
        hooks.visualization = dict(type=task.draw_hook)
    hook = hooks.visualization
    task = task_of_hook(hook.type)
    settings = draw_settings if task is None else task.draw_settings
    hook.update(settings(show=args.show, out_dir=args.show_dir, wait_time=args.wait_time, interval=args.interval))


def _augment_test(cfg: Config) -> None:
    """Wrap the model and replace the pipelines for test-time augmentation; what the config lacks is the task's default, if it has one."""
    missing = [name for name in ('tta_model', 'tta_pipeline') if name not in cfg]
    task = task_of(cfg) if missing else None
    defaults = None if task is None else task.tta
    if missing and defaults is None:
        raise UsageError('--tta needs tta_model and tta_pipeline in the config; add both, or test without --tta')
    for dataset in innermost_datasets(cfg.test_dataloader.dataset):
        dataset.pipeline = cfg.tta_pipeline if 'tta_pipeline' in cfg or defaults is None else defaults.pipeline(dataset.pipeline)
    cfg.model = dict(cfg.tta_model if 'tta_model' in cfg or defaults is None else defaults.model, module=cfg.model)
    if defaults is not None:
        words = {'tta_model': defaults.model_in_words, 'tta_pipeline': defaults.pipeline_in_words}
        chosen = '; '.join(f'{name}: {words[name]}' for name in missing)
        print_log(f"--tta: the config lacks {' and '.join(missing)}, so {defaults.source}'s defaults are used ({chosen})", logger='current')


def _check_exit_policy(args: argparse.Namespace) -> None:
    if args.exit_policy is None:
        for flag in ('exit_backend', 'max_exit'):
            if getattr(args, flag) is not None:
                name = f'--{flag.replace("_", "-")}'
                raise UsageError(f'{name} {getattr(args, flag)} only applies to dynamic inference; add --exit-policy POLICY.json')
        return
    if args.tta:
        raise UsageError('--tta averages the scores of all exits, and --exit-policy does not compute all of them; leave one of the two out')
    if args.show or args.show_dir:
        raise UsageError(
            f"--show{'' if args.show else '-dir'} draws the predictions of all exits, and --exit-policy does not compute all of them; "
            'draw in a test without --exit-policy'
        )
    num_exits = read_exit_policy(args.exit_policy).num_exits
    if args.max_exit is not None and not 1 <= args.max_exit <= num_exits:
        raise UsageError(f'--max-exit {args.max_exit}: the policy has {num_exits} exits; pass 1 to {num_exits}, or leave it out')


def _test_dynamically(cfg: Config, args: argparse.Namespace) -> None:
    """Replace the metrics, which need the scores of all exits, and add the hook of dynamic inference."""
    task = task_of(cfg)
    if task is not None and not task.has_exits:
        raise UsageError(
            f'--exit-policy {args.exit_policy}: {task.models} have no exits and always run the whole network; dynamic inference is for '
            f'{" and ".join(one.name for one in all_tasks() if one.has_exits)}'
        )
    hook = dict(
        type='dynperceiver.ExitPolicyHook',
        policy=args.exit_policy,
        backend=args.exit_backend or 'torch',
        max_exit=None if args.max_exit is None else args.max_exit - 1,
    )
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), hook]
    cfg.test_evaluator = dict(type='dynperceiver.DynamicAccuracy')


def test_config(args: argparse.Namespace) -> Config:
    """Config of a test with the flags merged in; ``--cfg-options`` have the last word.

    Raises:
        CheckpointError: If the policy cannot be read.
        MissingFileError: If the config or the checkpoint is missing.
        UsageError: If a flag needs something that the config lacks, or a value is out of its range.
    """
    if args.interval < 1:
        raise UsageError(f'--interval {args.interval}: pass 1 to draw every sample, 2 for every second, and so on')
    if args.out is not None and not args.out.endswith(('.pkl', '.pickle')):
        raise UsageError(f'--out {args.out}: predictions are saved to a pickle file; use a name that ends in .pkl or .pickle')
    _check_exit_policy(args)
    cfg = checkpoint_config(args.config, args.checkpoint, work_dir=args.work_dir, launcher=args.launcher, local_rank=args.local_rank)
    if args.show or args.show_dir:
        _draw_predictions(cfg, args)
    merge_options(cfg, args.cfg_options)
    let_no_workers_persist(cfg)
    # What follows wraps parts of the config, with what --cfg-options made of them inside.
    if args.tta:
        _augment_test(cfg)
    if args.exit_policy is not None:
        _test_dynamically(cfg, args)
    if args.out is not None:
        task = task_of(cfg)
        metric = dict(type='mmengine.DumpResults' if task is None else task.dump_metric, out_file_path=args.out)
        evaluator = cfg.test_evaluator
        cfg.test_evaluator = [*evaluator, metric] if isinstance(evaluator, list | tuple) else [evaluator, metric]
    return cfg
