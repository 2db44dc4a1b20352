"""Time and memory of the detection backbones against the CNNs alone, the backbone-only baselines, as ratios taken in one run.

  python benchmarks/detection_backbones.py speed     # inference, batch 1: time ratio over GMACs ratio
  python benchmarks/detection_backbones.py memory    # training step: peak memory with activation checkpointing over without

Alternating runs, the fastest of each counts; one process per memory figure, whose peak resident size is read at its end.
"""

from __future__ import annotations

import argparse
import platform
import resource
import subprocess
import sys
import time

import torch

import dynperceiver_det  # noqa: F401  registers the backbones
from dynperceiver.analysis import count_gmacs, meta_copy
from dynperceiver_det.registry import MODELS

BACKBONES = {
    'RegNetY-1.6GF': (dict(feature_branch='regnet_y_1_6gf'), dict(num_latents=256, depth_factors=(1, 1, 1, 1))),
    'RegNetY-800MF': (dict(feature_branch='regnet_y_800mf'), dict(num_latents=128, depth_factors=(1, 1, 1, 2))),
    'ResNet-50 x0.625': (dict(feature_branch='resnet50', width=0.625), dict(num_latents=128, depth_factors=(1, 1, 1, 1))),
    'MobileNet-v3 x1.0': (dict(feature_branch='mobilenet_v3_large', width=1.0), dict(num_latents=128, depth_factors=(1, 1, 1, 3))),
}


def build(name: str, dynamic: bool, **options: bool) -> torch.nn.Module:
    """The Dyn-Perceiver backbone of a name, or the CNN alone, its backbone-only baseline."""
    trunk, latent = BACKBONES[name]
    kind = 'DynPerceiverBackbone' if dynamic else 'FeatureBranchBackbone'
    return MODELS.build(dict(type=kind, **trunk, **(latent if dynamic else {}), **options))


def fastest_ms(models: list[torch.nn.Module], images: torch.Tensor, rounds: int) -> list[float]:
    """Fastest forward pass of each model in milliseconds; the models take turns, so that a busy moment hits all."""
    best = [float('inf')] * len(models)
    with torch.inference_mode():
        for round_number in range(rounds + 1):
            for i, model in enumerate(models):
                start = time.perf_counter()
                model(images)
                if round_number:  # the first is for warming up
                    best[i] = min(best[i], 1e3 * (time.perf_counter() - start))
    return best


def speed(args: argparse.Namespace) -> None:
    """Print the table of times."""
    images = torch.randn(1, 3, *args.shape)
    shape = torch.empty(1, 3, *args.shape, device='meta')
    print(f'{args.shape[0]}x{args.shape[1]}, batch 1, {torch.get_num_threads()} threads, torch {torch.__version__}, {platform.processor()}')
    print(f'{"feature branch":<18} {"GMACs":>7} {"baseline":>8} {"ratio":>6} {"ms":>7} {"baseline":>8} {"ratio":>6} {"time / GMACs":>13}')
    for name in args.backbones:
        models = [build(name, dynamic).eval() for dynamic in (True, False)]
        gmacs = [count_gmacs(meta_copy(model), shape) for model in models]
        times = fastest_ms(models, images, args.rounds)
        cost, clock = gmacs[0] / gmacs[1], times[0] / times[1]
        print(
            f'{name:<18} {gmacs[0]:>7.2f} {gmacs[1]:>8.2f} {cost:>6.3f} {times[0]:>7.0f} {times[1]:>8.0f} {clock:>6.3f} '
            f'{clock / cost:>13.3f}', flush=True,
        )


def training_peak_mib(name: str, with_cp: bool, shape: list[int], batch_size: int) -> float:
    """Peak resident size of this process after training steps of a backbone, less what it had before, in MiB."""
    model = build(name, True, with_cp=with_cp).train()
    images = torch.randn(batch_size, 3, *shape)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):
        sum(level.square().mean() for level in model(images)).backward()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def memory(args: argparse.Namespace) -> None:
    """Print the table of peaks, each measured by a process of its own."""
    if args.single:
        start = time.perf_counter()
        peak_mib = training_peak_mib(args.backbones[0], args.single == 'with_cp', args.shape, args.batch_size)
        print(peak_mib, time.perf_counter() - start)
        return
    print(f'{args.shape[0]}x{args.shape[1]}, batch {args.batch_size}: peak MiB and seconds of two training steps of the backbone')
    print(f'{"feature branch":<18} {"plain":>8} {"with_cp":>8} {"ratio":>6} {"plain s":>8} {"with_cp s":>9}')
    for name in args.backbones:
        results = []
        for mode in ('plain', 'with_cp'):
            command = [sys.executable, __file__, 'memory', '--single', mode, '--backbones', name, '--batch-size', str(args.batch_size)]
            output = subprocess.check_output([*command, '--shape', *map(str, args.shape)], text=True)
            results.append([float(word) for word in output.split()])
        (plain, plain_s), (kept, kept_s) = results
        print(f'{name:<18} {plain:>8.0f} {kept:>8.0f} {kept / plain:>6.2f} {plain_s:>8.1f} {kept_s:>9.1f}', flush=True)


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=['speed', 'memory'])
    parser.add_argument('--shape', type=int, nargs=2, default=[800, 1280], metavar=('HEIGHT', 'WIDTH'), help='(default: 800 1280)')
    parser.add_argument('--rounds', type=int, default=10, help='runs of each model (default: %(default)s)')
    parser.add_argument('--batch-size', type=int, default=1, help='images of a training step (default: %(default)s)')
    parser.add_argument('--backbones', nargs='+', choices=list(BACKBONES), default=list(BACKBONES), metavar='NAME')
    parser.add_argument('--threads', type=int, help='threads of torch (default: as torch chooses)')
    parser.add_argument('--single', choices=['plain', 'with_cp'], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    {'speed': speed, 'memory': memory}[args.what](args)


if __name__ == '__main__':
    main()
