"""What dynamic inference promises, measured: a table of claim, target and measurement; every ratio comes from calls that take turns.

  python benchmarks/dynamic_inference.py                              # all claims, some ten minutes
  python benchmarks/dynamic_inference.py --only 2 3 --out result.json
  python benchmarks/dynamic_inference.py --only 2 --shared-pool      # one pool of threads for all graphs

Claims 1 to 3 and 5 are on RegNetY-800MF with 128 latents and depth (1, 1, 1, 2), 224x224, float32, random weights; claim 4 is on clips of
8 frames and needs mmaction2. Run it while the machine does nothing else.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dynperceiver import build_model
from dynperceiver.analysis import count_exit_costs
from dynperceiver.benchmark import machine_description, measure_peak_memory, num_torch_threads, time_calls
from dynperceiver.benchmark.speed import eager_call, folded_call, onnx_call, static_trunk_of
from dynperceiver.calibration.exit_fractions import as_policy_thresholds, solve_thresholds
from dynperceiver.inference import DynamicRunner, ExitPolicy
from dynperceiver.models import DynPerceiver
from dynperceiver_runtime.engines.sessions import share_pool
from dynperceiver_runtime.policy.exit_policy import NEVER

FRACTIONS = (0.4, 0.3, 0.1, 0.2)
CLIP_FRACTIONS = (0.5, 0.0, 0.0, 0.5)
NOBODY_LEAVES = ExitPolicy((NEVER,) * 3)
ACTION_CONFIG = Path(__file__).parents[1] / 'configs' / 'action' / 'tsm_dynperceiver.py'


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        number: Of the claim.
        claim: What is measured.
        measured: The figure.
        target: What it has to reach, or ``None``.
        at_most: Whether the target is an upper limit.
        note: What the figure is made of.
    """

    number: int
    claim: str
    measured: float
    target: float | None = None
    at_most: bool = True
    note: str = ''

    @property
    def verdict(self) -> str:
        """Whether the target is reached."""
        if self.target is None:
            return ''
        return 'yes' if (self.measured <= self.target if self.at_most else self.measured >= self.target) else 'NO'

    def text(self) -> str:
        """The line."""
        target = '' if self.target is None else f'{"<=" if self.at_most else ">="} {self.target:.2f}'
        return f'{self.number}  {self.claim:<74} {target:>8} {self.measured:>9.3f}  {self.verdict:<4} {self.note}'


def network() -> DynPerceiver:
    """The network of claims 1 to 3 and 5."""
    torch.manual_seed(0)
    return build_model('regnet_y_800mf', num_latents=128, depth_factors=(1, 1, 1, 2)).eval()


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    """Random images of different brightness and contrast, so that a random network tells them apart."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 3, 224, 224, generator=generator)
    return noise * (0.5 + torch.rand(count, 1, 1, 1, generator=generator)) + torch.randn(count, 3, 1, 1, generator=generator)


def solved_policy(runner: DynamicRunner, batches: Sequence[Any], fractions: Sequence[float]) -> ExitPolicy:
    """A policy whose thresholds are solved on the scores of these very samples; logits are scaled so that their scores differ."""
    logits_ESK = np.concatenate([runner.full_logits(batch) for batch in batches], 1)
    spread_E = logits_ESK.std(axis=(1, 2)) / 2
    loose = ExitPolicy((0.0,) * (len(logits_ESK) - 1), temperature=tuple(spread_E.tolist()))
    score_ES = np.stack([loose.score_of(k, logits_SK) for k, logits_SK in enumerate(logits_ESK)])
    return ExitPolicy(as_policy_thresholds(solve_thresholds(score_ES, fractions)), temperature=loose.temperature)


def step_ms(name: str, ms: float) -> str:
    """A time for a note."""
    return f'{name} {ms:.1f} ms'


def eager_segments(args: argparse.Namespace) -> Iterator[Row]:
    """Claim 1: all four segments in PyTorch against the backbone-only baseline."""
    model = network()
    trunk = static_trunk_of(model)
    for batch_size, target in ((1, 1.9), (32, 1.4)):
        images = pictures(batch_size)
        runner = DynamicRunner(model, NOBODY_LEAVES)
        if batch_size > 1:
            images, trunk = images.contiguous(memory_format=torch.channels_last), trunk.to(memory_format=torch.channels_last)
        calls = {
            'four segments': lambda runner=runner, images=images: runner(images),
            'plain': eager_call(trunk, images),
            'folded': folded_call(trunk, images),
        }
        table = time_calls(calls, args.rounds, 50, max_seconds=50)
        own = step_ms('four segments', table['four segments'].median_ms)
        for kind in ('plain', 'folded'):
            claim = f'torch, batch {batch_size}: four segments / {kind} backbone-only baseline'
            note = f'{own}, baseline {table[kind].median_ms:.1f} ms'
            yield Row(1, claim, table.ratio('four segments', kind), target, note=note)


def onnx_segments(args: argparse.Namespace) -> Iterator[Row]:
    """Claim 2: segments in ONNX Runtime against the backbone-only baseline exported alike, and against one graph."""
    model, images = network(), pictures(1)
    runner = DynamicRunner(model, NOBODY_LEAVES, 'onnxruntime', num_threads=args.threads)
    array = images.numpy()
    calls: dict[str, Callable[[], object]] = {f'exit {k + 1}': lambda k=k: runner(array, max_exit=k) for k in range(model.num_exits)}
    calls |= {
        'trunk': onnx_call(static_trunk_of(model), images, args.threads),
        'one graph': onnx_call(model, images, args.threads),
    }
    table = time_calls(calls, 2 * args.rounds, 50, max_seconds=90)
    for exit_number, target in ((4, 1.55), (1, 0.6), (2, 1.28), (3, None)):
        name, what = f'exit {exit_number}', 'four segments' if exit_number == 4 else f'stopping at exit {exit_number}'
        note = f'{step_ms(what, table[name].median_ms)}, baseline {table["trunk"].median_ms:.1f} ms'
        yield Row(2, f'ONNX Runtime, batch 1: {what} / backbone-only baseline', table.ratio(name, 'trunk'), target, note=note)
    note = step_ms('one graph', table['one graph'].median_ms)
    yield Row(2, 'ONNX Runtime, batch 1: four graphs / one graph', table.ratio('exit 4', 'one graph'), 1.03, note=note)


def saving(full: DynamicRunner, batches: Sequence[Any], gflops_E: np.ndarray, rounds: int) -> tuple[float, float, str]:
    """Speed-up of a policy over the full network, in time and in GFLOPs; several batches come as a stream."""
    dynamic = DynamicRunner(None, solved_policy(full, batches, FRACTIONS), full.engine)

    def answer() -> np.ndarray:
        results = [dynamic(batches[0])] if len(batches) == 1 else dynamic.stream(batches, len(batches[0]))
        return np.concatenate([np.asarray(result.exit_index) for result in results])

    count_E = np.bincount(answer(), minlength=len(gflops_E))
    predicted = float(gflops_E[-1] / (count_E @ gflops_E / count_E.sum()))
    calls = {'full': lambda: [full(batch) for batch in batches], 'dynamic': answer}
    table = time_calls(calls, rounds, 1, warm_up=1, max_seconds=55)
    return table.ratio('full', 'dynamic'), predicted, f'{"/".join(map(str, count_E))} samples at exits 1-{len(count_E)}'


def speed_up(args: argparse.Namespace) -> Iterator[Row]:
    """Claim 3: what a policy saves in time over what it saves in GFLOPs, batches of 64."""
    model = network()
    gflops_E = np.array([cost.cost_gmacs for cost in count_exit_costs(model, 224, 224)])
    for backend, options in (('torch', {}), ('onnxruntime', {'num_threads': args.threads})):
        full = DynamicRunner(model, NOBODY_LEAVES, backend, **options)
        for mode, count, target in (('one batch of 64', 1, 0.9), ('stream of 5 batches, size 64', 5, 0.95)):
            batches = [pictures(64, seed) if backend == 'torch' else pictures(64, seed).numpy() for seed in range(count)]
            measured, predicted, exits = saving(full, batches, gflops_E, max(5, args.rounds // (2 if count == 1 else 3)))
            note = f'{measured:.3f} times as fast, {predicted:.3f} by GFLOPs, {exits}'
            yield Row(3, f'{backend}, {mode}: speed-up measured / by GFLOPs', measured / predicted, target, at_most=False, note=note)


def stock_tsm() -> nn.Module:
    """mmaction2's TSM-ResNet-50 from its own config, with random weights."""
    from mmaction.registry import MODELS
    from mmengine.config import Config

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'tsm.py'
        path.write_text("_base_ = ['mmaction::_base_/models/tsm_r50.py']\n", encoding='utf-8')
        cfg = Config.fromfile(path)
    cfg.model.backbone.pretrained = None
    model: nn.Module = MODELS.build({**cfg.model, '_scope_': 'mmaction'})
    return model.eval()


def clips(args: argparse.Namespace) -> Iterator[Row]:
    """Claim 4: clips per second against mmaction2's TSM when half of the clips leave at exit 1."""
    from mmengine.config import Config

    import dynperceiver_action  # noqa: F401  registers, and repairs what mmaction2 needs
    from dynperceiver.registry import MODELS

    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(ACTION_CONFIG).model.backbone).eval()
    tsm, num_clips = stock_tsm(), 4
    frames = pictures(8 * num_clips)
    videos, array = frames.view(num_clips, 8, 3, 224, 224), frames.numpy()
    full = DynamicRunner(model, NOBODY_LEAVES, 'onnxruntime', num_threads=args.threads)
    dynamic = DynamicRunner(None, solved_policy(full, [array], CLIP_FRACTIONS), full.engine)

    def run_tsm() -> None:
        with torch.inference_mode():
            tsm(videos, mode='tensor', stage='head')

    table = time_calls({'dynamic': lambda: dynamic(array), 'tsm': run_tsm}, args.rounds, 1, max_seconds=75)
    count_E = np.bincount(np.asarray(dynamic(array).exit_index), minlength=model.num_exits)
    rates = {name: 1e3 * num_clips / table[name].median_ms for name in ('dynamic', 'tsm')}
    note = f'{rates["dynamic"]:.2f} and {rates["tsm"]:.2f} clips/s, {"/".join(map(str, count_E))} clips at exits 1-{len(count_E)}'
    claim = "clips/s, ONNX Runtime / mmaction2's TSM-ResNet-50 in PyTorch"
    yield Row(4, claim, table.ratio('tsm', 'dynamic'), 2.5, at_most=False, note=note)


def memory_call(kind: str, batch_size: int, num_threads: int) -> Callable[[], object]:
    """What the peak of is measured, after a run on one image that folds, exports and loads."""
    torch.set_num_threads(num_threads)
    model, images = network(), pictures(batch_size)
    if kind == 'plain':
        eager_call(model, images[:1])()
        return eager_call(model, images)
    options = {'num_threads': num_threads} if kind == 'onnxruntime' else {}
    runner = DynamicRunner(model, NOBODY_LEAVES, kind, **options)
    batch = images.numpy() if kind == 'onnxruntime' else images
    runner(batch[:1])
    return lambda: runner(batch)


def memory(args: argparse.Namespace) -> Iterator[Row]:
    """Claim 5: peak memory of the runner against the plain forward pass of all exits; nobody leaves, which needs most."""
    peaks = {kind: measure_peak_memory(memory_call, kind, 32, args.threads) for kind in ('plain', 'torch', 'onnxruntime')}
    for kind in ('torch', 'onnxruntime'):
        note = f'{peaks[kind].added_mib:.0f} and {peaks["plain"].added_mib:.0f} MiB beyond weights and images'
        ratio = peaks[kind].added_mib / peaks['plain'].added_mib
        yield Row(5, f'{kind}, batch 32: peak memory of the runner / plain forward pass', ratio, 1.0, note=note)


CLAIMS = {1: eager_segments, 2: onnx_segments, 3: speed_up, 4: clips, 5: memory}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', type=int, nargs='+', choices=list(CLAIMS), default=list(CLAIMS), help='claims (default: all)')
    parser.add_argument('--threads', type=int, default=2, help='(default: %(default)s)')
    parser.add_argument('--rounds', type=int, default=15, help='rounds in which calls take turns; half or a third where they are long')
    parser.add_argument('--shared-pool', action='store_true', help='ONNX Runtime: one pool of threads for all graphs')
    parser.add_argument('--out', type=Path, metavar='RESULT.json', help='keep the figures')
    args = parser.parse_args()
    if args.shared_pool:
        share_pool(args.threads)
    start, rows = time.monotonic(), []
    with num_torch_threads(args.threads):
        machine = machine_description(args.threads)
        print(machine)
        print(f'   {"claim":<74} {"target":>8} {"measured":>9}')
        for number in args.only:
            for row in CLAIMS[number](args):
                print(row.text(), flush=True)
                rows.append(row)
    print(f'{time.monotonic() - start:.0f} s')
    if args.out is not None:
        content = dict(machine=machine, rounds=args.rounds, rows=[dict(asdict(row), verdict=row.verdict) for row in rows])
        args.out.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
