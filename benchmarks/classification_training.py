"""Images per second of a training step of image classifiers, channels-last against contiguous, and what copying between layouts costs.

  python benchmarks/classification_training.py                        # RegNetY-800MF, batch 64, 224x224, as the config's recipe
  python benchmarks/classification_training.py --device cuda --amp    # bf16 on a GPU

A step is what MMEngine's runner does for a batch: preprocessing of bytes, forward, loss of all exits, backward, optimizer. The layouts
take turns, and the fastest step of each counts.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS

from dynperceiver_cls import ClsDataSample

CONFIGS = Path(__file__).parent.parent / 'configs' / 'classification'
COPIES = ('aten::copy_', 'aten::clone', 'aten::contiguous', 'aten::_to_copy')
CONTIGUOUS = 'contiguous'
CHANNELS_LAST = 'channels-last'


def make_step(cfg: Config, args: argparse.Namespace) -> Callable[[], None]:
    """A training step of a config's model, without batch augmentation unless asked for."""
    model_cfg = cfg.model.copy()
    if not args.augment:
        model_cfg.data_preprocessor = {key: model_cfg.data_preprocessor[key] for key in ('type', 'mean', 'std')}
    torch.manual_seed(0)
    model = MODELS.build(model_cfg).to(args.device).train()
    wrapper_cfg = cfg.optim_wrapper.copy()
    if args.amp:
        wrapper_cfg.update(type='AmpOptimWrapper', dtype='bfloat16')
    wrapper = build_optim_wrapper(model, wrapper_cfg)
    images = torch.randint(0, 256, (args.batch_size, 3, args.size, args.size), dtype=torch.uint8)
    samples = [ClsDataSample(gt_label=i % model.backbone.num_classes) for i in range(args.batch_size)]
    data = dict(inputs=images.contiguous(memory_format=torch.channels_last), data_samples=samples)

    def step() -> None:
        model.train_step(dict(data), wrapper)
        if args.device == 'cuda':
            torch.cuda.synchronize()

    return step


def in_layout(layout: str, step: Callable[[], None]) -> None:
    """Run a step in a memory layout: the network asks for channels-last, and is given contiguous memory instead where that is measured."""
    if layout == CHANNELS_LAST:
        step()
        return
    with mock.patch.object(torch, 'channels_last', torch.contiguous_format):
        step()


def copy_share(step: Callable[[], None]) -> tuple[float, list[tuple[str, float]]]:
    """Share of a step's time that copies take, and the operators that take most."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        step()
    rows: list[Any] = [row for row in profile.key_averages() if row.self_cpu_time_total > 0]
    total = sum(row.self_cpu_time_total for row in rows)
    top = sorted(((row.key, row.self_cpu_time_total / total) for row in rows), key=lambda pair: -pair[1])
    return sum(share for name, share in top if name in COPIES), top[:8]


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--configs', nargs='+', default=['dynperceiver-regnety-800mf_8xb128_in1k', 'regnety-800mf_8xb128_in1k'], metavar='NAME',
        help='leaves of configs/classification (default: %(default)s)')  # fmt: skip
    parser.add_argument('--batch-size', type=int, default=64, help='(default: %(default)s)')
    parser.add_argument('--size', type=int, default=224, metavar='PIXELS', help='(default: %(default)s)')
    parser.add_argument('--rounds', type=int, default=3, help='steps of each (default: %(default)s)')
    parser.add_argument('--threads', type=int, help='threads of torch (default: as torch chooses)')
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    parser.add_argument('--amp', action='store_true', help='bf16 mixed precision')
    parser.add_argument('--augment', action='store_true', help='with the batch augmentation of the recipe')
    args = parser.parse_args()
    if args.amp and args.device == 'cpu':
        parser.error("--amp needs --device cuda: MMEngine's mixed precision works on GPUs only")
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.cuda.get_device_name() if args.device == 'cuda' else platform.processor() or platform.machine()
    precision = 'bf16' if args.amp else 'fp32'
    print(f'batch {args.batch_size}, {args.size}x{args.size}, {precision}, {torch.get_num_threads()} threads, '
          f'torch {torch.__version__}, {device}')
    for name in args.configs:
        step = make_step(Config.fromfile(CONFIGS / f'{name}.py'), args)
        best = dict.fromkeys((CHANNELS_LAST, CONTIGUOUS), float('inf'))
        for round_number in range(args.rounds + 1):
            for layout in best:
                start = time.perf_counter()
                in_layout(layout, step)
                if round_number:  # the first is for warming up
                    best[layout] = min(best[layout], time.perf_counter() - start)
        speeds = ', '.join(f'{layout} {args.batch_size / seconds:.1f} images/s' for layout, seconds in best.items())
        print(f'{name}: {speeds}; contiguous takes {best[CONTIGUOUS] / best[CHANNELS_LAST]:.2f} times as long')
        share, top = copy_share(step)
        longest = ', '.join(f'{key} {part:.0%}' for key, part in top)
        print(f'  copies of any kind take {share:.1%} of a step; most time takes {longest}', flush=True)


if __name__ == '__main__':
    main()
