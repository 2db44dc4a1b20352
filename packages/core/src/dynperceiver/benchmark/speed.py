"""How fast early exits are where this runs, per backend and batch size: every exit, a mix of exits, and the backbone-only baseline (the CNN
with its classifier), treated alike.

Shape suffixes: S samples, E exits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dynperceiver_runtime import UserError
from dynperceiver_runtime.engines.sessions import make_session
from dynperceiver_runtime.policy.exit_policy import NEVER, ExitPolicy
from dynperceiver_runtime.policy.scores import LARGEST_LOG_ODDS

from ..analysis import count_exit_costs, count_gmacs, meta_copy
from ..calibration.held_out_scores import check_fractions
from ..deployment.engines import ENGINES
from ..deployment.folding import fold
from ..deployment.runner import DynamicRunner
from ..layers import copy_without_hooks
from ..models import DynPerceiver, StaticTrunk, network_with_exits
from .timing import find_crossover, machine_description, num_torch_threads, time_calls

__all__ = [
    'ScriptedPolicy',
    'eager_call',
    'folded_call',
    'fractions_of_policy',
    'measure_speed',
    'mix_call',
    'onnx_call',
    'onnx_session',
    'script_exits',
    'session_call',
    'speed_table',
    'static_trunk_of',
    'time_policies',
]

MIX_SAMPLES = 40  # at least so many share the exits of a mix
STATIC, MIX = 'backbone-only baseline', 'policy'
EAGER_NETWORK, EAGER_TRUNK = 'eager network', 'eager backbone-only baseline'


class ScriptedPolicy(ExitPolicy):
    """Sends each sample of a batch to an exit that was written down before; it looks at the logits as any policy does.

    Args:
        exit_index_S: Index, from 0, of the exit at which each sample of a batch leaves, shape (S,).
        num_exits: Exits of the network.
    """

    def __init__(self, exit_index_S: np.ndarray, num_exits: int) -> None:
        super().__init__(thresholds=(1.0,) * (num_exits - 1))
        object.__setattr__(self, 'exit_index_S', np.asarray(exit_index_S))

    def decision_scores(self, exit_index: int, logits_SK: np.ndarray, sample_S: np.ndarray | None = None) -> np.ndarray:
        """As sure as can be for who leaves at the exit or before, otherwise as unsure; samples of a stream take turns with the script."""
        count = len(super().decision_scores(exit_index, logits_SK, sample_S))
        script_S: np.ndarray = self.__dict__['exit_index_S']
        samples_S = np.arange(count) if sample_S is None else np.asarray(sample_S)
        return np.where(script_S[samples_S % len(script_S)] <= exit_index, LARGEST_LOG_ODDS, -LARGEST_LOG_ODDS)


def script_exits(exit_fractions: Sequence[float], num_samples: int, seed: int = 0) -> np.ndarray:
    """Exits of samples in the given fractions, as nearly as whole samples allow, in random order; int64 of shape (num_samples,).

    Raises:
        ValueError: If the fractions are negative or do not sum up to 1.
    """
    fraction_E = check_fractions(exit_fractions, len(exit_fractions)).astype(np.float64)
    wanted_E = fraction_E / fraction_E.sum() * num_samples
    count_E = np.floor(wanted_E + 1e-6).astype(np.int64)
    count_E[np.argsort(count_E - wanted_E, kind='stable')[: num_samples - count_E.sum()]] += 1
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(count_E)), count_E))


def fractions_of_policy(policy: ExitPolicy) -> tuple[float, ...]:
    """Fractions of the samples that a policy sent to each exit where it was made.

    Raises:
        UserError: If its record does not say.
    """
    fractions = None if policy.record is None else policy.record.expected.get('exit_fractions')
    if fractions is None:
        raise UserError(
            'the policy does not record how many samples leave at each exit, on which its speed depends; make it with tools/calibrate.py, '
            'or give the fractions yourself'
        )
    return tuple(float(fraction) for fraction in check_fractions(fractions, policy.num_exits))


def static_trunk_of(network: DynPerceiver) -> StaticTrunk:
    """The CNN of a network with the classifier of exit 3, which is what the network is measured against; the weights are shared.

    Raises:
        NetworkError: If the network has no exits.
    """
    exits = network_with_exits(network).exits
    assert exits is not None
    return StaticTrunk(network.feature_branch, exits[exits.trunk_exit_index], exits.num_classes)  # type: ignore[arg-type]


def _last(outputs: Any) -> Tensor:
    logits: Tensor = outputs[-1] if isinstance(outputs, tuple | list) else outputs
    return logits


def eager_call(model: nn.Module, images_BCHW: Tensor) -> Callable[[], np.ndarray]:
    """A forward pass in PyTorch as the model stands; gives the last exit's logits."""
    model = model.eval()

    def call() -> np.ndarray:
        with torch.inference_mode():
            return _last(model(images_BCHW)).float().cpu().numpy()

    return call


def folded_call(model: nn.Module, images_BCHW: Tensor, device: str | None = None) -> Callable[[], np.ndarray]:
    """A forward pass in PyTorch with everything folded, as the backend ``'torch'`` runs; gives the last exit's logits."""
    folded = fold(model, (images_BCHW.shape[2], images_BCHW.shape[3]))
    return eager_call(folded if device is None else folded.to(device), images_BCHW if device is None else images_BCHW.to(device))


def onnx_call(model: nn.Module, images_BCHW: Tensor, num_threads: int | None = None) -> Callable[[], np.ndarray]:
    """A forward pass as one folded graph in ONNX Runtime, set up like the backend ``'onnxruntime'``; gives the last exit's logits."""
    return session_call(onnx_session(model, (images_BCHW.shape[2], images_BCHW.shape[3]), num_threads), images_BCHW)


def session_call(session: Any, images_BCHW: Tensor) -> Callable[[], np.ndarray]:
    """A forward pass of a session of :func:`onnx_session`; gives the last exit's logits."""
    feed = {'images': np.ascontiguousarray(images_BCHW.numpy(), np.float32)}
    return lambda: np.asarray(session.run(None, feed)[-1])


def onnx_session(model: nn.Module, image_size: tuple[int, int], num_threads: int | None) -> Any:
    """ONNX Runtime's session of one folded graph, for batches of any size, set up like the backend ``'onnxruntime'``."""
    from ..deployment.export.graphs import export_module, graph_bytes  # needs onnx and onnxscript, without which everything else runs

    frames = getattr(model, 'num_frames', 1)
    graph = export_module(fold(model, image_size), [torch.zeros(2 * frames, 3, *image_size)], ['images'], None, frames)
    return make_session(graph_bytes(graph), num_threads or torch.get_num_threads())


def mix_call(runner: DynamicRunner, images: Any, batch_size: int, fractions: Sequence[float]) -> tuple[Callable[[], None], int]:
    """A call that answers some batches whose samples leave in these fractions, and its number of batches.

    Args:
        runner: A runner; its own policy plays no part.
        images: A batch as the runner takes it.
        batch_size: Samples in it.
        fractions: Fraction of the samples that leave at each exit.
    """
    num_batches = -(-MIX_SAMPLES // batch_size)
    exit_index_S = script_exits(fractions, num_batches * batch_size)
    policies = [ScriptedPolicy(script_S, runner.served.num_exits) for script_S in np.split(exit_index_S, num_batches)]

    def call() -> None:
        before = runner.policy
        try:
            for policy in policies:
                runner.policy = policy
                runner(images)
        finally:
            runner.policy = before

    return call, num_batches


class _Contestants:
    """What takes turns on one backend."""

    def __init__(self, network: DynPerceiver, trunk: StaticTrunk | None, backend: str, num_threads: int, device: str | None) -> None:
        self.network, self.trunk, self.backend, self.num_threads, self.device = network, trunk, backend, num_threads, device
        options: dict[str, Any] = {'num_threads': num_threads} if backend == 'onnxruntime' else {'device': device}
        never = ExitPolicy((NEVER,) * (network.num_exits - 1))
        self.runner = DynamicRunner(network, never, backend, **options)
        self.session: Any = None

    def calls(
        self, batch_size: int, image_size: tuple[int, int], fractions: np.ndarray | None, eager: bool
    ) -> tuple[dict[str, Callable[[], object]], dict[str, int]]:
        """Calls by name, and how many batches a call answers where it is not one."""
        num_images, generator = batch_size * self.network.num_frames, torch.Generator().manual_seed(batch_size)
        images_BCHW = torch.randn(num_images, 3, *image_size, generator=generator)
        images: Any = images_BCHW.numpy() if self.backend == 'onnxruntime' else images_BCHW.to(self.device or 'cpu')
        calls: dict[str, Callable[[], object]] = {
            f'exit {exit_index + 1}': partial(self.runner, images, max_exit=exit_index) for exit_index in range(self.network.num_exits)
        }
        if self.trunk is not None and self.backend == 'onnxruntime':
            self.session = self.session or onnx_session(self.trunk, image_size, self.num_threads)
            calls[STATIC] = session_call(self.session, images_BCHW)
        elif self.trunk is not None:
            calls[STATIC] = folded_call(self.trunk, images_BCHW, self.device)
        batches: dict[str, int] = {}
        if fractions is not None:
            calls[MIX], batches[MIX] = mix_call(self.runner, images, batch_size, fractions.tolist())
        if eager and self.backend == 'torch':
            for name, model in {EAGER_NETWORK: self.network, EAGER_TRUNK: self.trunk}.items():
                if model is not None:
                    calls[name] = eager_call(copy_without_hooks(model).to(self.device or 'cpu'), images)
        return calls, batches


def time_policies(
    runner: DynamicRunner, samples: Sequence[Any], policies: Sequence[ExitPolicy], repeats: int = 3, chunk: int = 32
) -> tuple[np.ndarray, np.ndarray]:
    """Answer samples one by one under each policy, and time it.

    Args:
        runner: A runner; its own policy plays no part.
        samples: What the runner takes, one sample each.
        policies: The policies; they take turns every ``chunk`` samples.
        repeats: Times that every chunk is run; the median counts.
        chunk: Samples in a row.

    Returns:
        Mean milliseconds per sample for each policy, shape (policies,), and the exits of the samples, shape (policies, S).

    Raises:
        ValueError: If there are no samples or policies.
    """
    if not samples or not policies:
        raise ValueError(f'{len(samples)} samples and {len(policies)} policies to time; pass 1 or more of both')
    before, total_ms = runner.policy, np.zeros(len(policies))
    exit_index_PS = np.empty((len(policies), len(samples)), np.int64)
    try:
        runner.warm_up(samples[0])
        for start in range(0, len(samples), chunk):
            part = samples[start : start + chunk]
            spent_ms = np.empty((repeats, len(policies)))
            for repeat in range(repeats):
                for number, policy in enumerate(policies):
                    runner.policy = policy
                    begin = runner.clock()
                    results = [runner(sample) for sample in part]
                    spent_ms[repeat, number] = 1e3 * (runner.clock() - begin)
                    exit_index_PS[number, start : start + len(part)] = [int(result.exit_index[0]) for result in results]
            total_ms += np.median(spent_ms, axis=0)
    finally:
        runner.policy = before
    return total_ms / len(samples), exit_index_PS


def measure_speed(
    network: DynPerceiver,
    backends: Sequence[str] = ('torch',),
    batch_sizes: Sequence[int] = (1, 8, 32),
    image_size: tuple[int, int] = (224, 224),
    *,
    exit_fractions: Sequence[float] | None = None,
    static: bool = True,
    eager: bool = False,
    num_threads: int | None = None,
    device: str | None = None,
    rounds: int = 15,
    max_seconds: float | None = 60.0,
    progress: Callable[[str, int, int], object] | None = None,
) -> dict[str, Any]:
    """Time a network's exits on random images; within a backend and batch size everything takes turns.

    Args:
        network: The network with exits.
        backends: Names in :data:`~dynperceiver.deployment.ENGINES`.
        batch_sizes: Samples per batch (clips, for video).
        image_size: Height and width in pixels.
        exit_fractions: Fraction of the samples that leave at each exit, for a mix of exits; it is timed over such batches.
        static: Whether to time the backbone-only baseline, folded and exported like the network.
        eager: Whether to time network and backbone-only baseline as they are trained, in PyTorch.
        num_threads: Threads; default PyTorch's.
        device: Where PyTorch computes; default the CPU.
        rounds: See :func:`~dynperceiver.benchmark.time_calls`.
        max_seconds: See there, per backend and batch size.
        progress: Called with what is timed, the rounds done and all rounds.

    Returns:
        ``machine``, ``image_size``, ``num_frames``, ``num_params``, ``exit_fractions``, ``gmacs`` by name, ``crossovers`` (phrases per
        backend), and ``rows``: a dict per backend, batch size and name with ``ms`` per sample (``p10_ms``, ``p90_ms``) and the times over
        the backbone-only baseline's and the full network's, ``over_static`` and ``over_full``.

    Raises:
        ValueError: If a backend is unknown, a batch size is not positive, or the fractions do not fit.
    """
    for name in backends:
        if name not in ENGINES:
            raise UserError(f'backend {name!r} is unknown; choose among {", ".join(map(repr, ENGINES))}')
    if not batch_sizes or min(batch_sizes) < 1:
        raise UserError(f'batch_sizes={tuple(batch_sizes)}: pass one or more, each of 1 or more samples')
    trunk, num_exits = static_trunk_of(network), network.num_exits
    fractions = None if exit_fractions is None else check_fractions(exit_fractions, num_exits).astype(float)
    rows: list[dict[str, Any]] = []
    with num_torch_threads(num_threads) as threads:
        for backend in backends:
            contestants = _Contestants(network, trunk if static else None, backend, threads, device)
            for batch_size in sorted(set(batch_sizes)):
                calls, batches = contestants.calls(batch_size, image_size, fractions, eager)
                show = None if progress is None else partial(progress, f'{backend}, batch size {batch_size}')
                table = time_calls(calls, rounds, max_seconds=max_seconds, progress=show)
                for timing in table.rows():
                    samples = batches.get(timing.name, 1) * batch_size
                    row = dict(backend=backend, batch_size=batch_size, name=timing.name, num_rounds=timing.num_rounds)
                    row |= dict(ms=timing.median_ms / samples, p10_ms=timing.p10_ms / samples, p90_ms=timing.p90_ms / samples)
                    for key, other in {'over_full': f'exit {num_exits}', 'over_static': STATIC}.items():
                        row[key] = table.ratio(timing.name, other) * batch_size / samples if other in calls else None
                    rows.append(row)
        machine = machine_description(threads, device)
    gmacs = {f'exit {cost.number}': cost.cost_gmacs for cost in count_exit_costs(network, *image_size)}
    if fractions is not None:
        gmacs[MIX] = float(fractions @ np.array(list(gmacs.values()))[:num_exits])
    gmacs[EAGER_NETWORK] = gmacs[f'exit {num_exits}']
    gmacs[STATIC] = gmacs[EAGER_TRUNK] = count_gmacs(meta_copy(trunk), torch.empty(network.num_frames, 3, *image_size, device='meta'))
    return dict(
        machine=machine,
        image_size=list(image_size),
        num_frames=network.num_frames,
        num_params=sum(parameter.numel() for parameter in network.parameters()),
        exit_fractions=None if fractions is None else fractions.tolist(),
        gmacs={name: gmacs[name] for name in dict.fromkeys(row['name'] for row in rows)},
        rows=rows,
        crossovers={backend: _crossovers(rows, backend) for backend in backends} if fractions is not None else {},
    )


def _crossovers(rows: Sequence[Mapping[str, Any]], backend: str) -> list[str]:
    """From which batch size on a mix of exits is faster than the backbone-only baseline, and than the full network."""
    mix = [row for row in rows if row['backend'] == backend and row['name'] == MIX]
    phrases = []
    for key, other in (('over_static', 'the backbone-only baseline'), ('over_full', 'the full network')):
        ratios = {row['batch_size']: row[key] for row in mix if row[key] is not None}
        if ratios:
            phrases.append(find_crossover(ratios, dict.fromkeys(ratios, 1.0)).text(other))
    return phrases


def speed_table(report: Mapping[str, Any]) -> str:
    """What :func:`measure_speed` found, for people."""
    sample = 'image' if report['num_frames'] == 1 else f'clip of {report["num_frames"]} frames'
    height, width = report['image_size']
    rows = report['rows']
    is_static = any(row['over_static'] is not None for row in rows)
    key, other = ('over_static', 'backbone-only baseline') if is_static else ('over_full', 'full network')
    rounds, width = min(row['num_rounds'] for row in rows), max(len(row[key]) for row in rows for key in ('backend', 'name'))
    lines = [
        f'milliseconds per {sample} of {height}x{width}, and (x) how many times the {other}; medians of {rounds} rounds or more',
        report['machine'],
    ]
    sizes = list(dict.fromkeys(row['batch_size'] for row in rows))
    for backend in dict.fromkeys(row['backend'] for row in rows):
        lines += ['', f'{backend:<{width}} {"GMACs":>7}' + ''.join(f'{f"batch {size}":>20}' for size in sizes)]
        own = [row for row in rows if row['backend'] == backend]
        for name in dict.fromkeys(row['name'] for row in own):
            cells = [f'{row["ms"]:>11.3f} {row[key]:>7.3f}x' for row in own if row['name'] == name]
            lines.append(f'{name:<{width}} {report["gmacs"][name]:>7.3g}' + ''.join(cells))
        fractions = report['exit_fractions']
        if fractions:
            exits = ' / '.join(f'{100 * fraction:.1f}' for fraction in fractions)
            lines.append(f'policy: {exits} % of the samples leave at exits 1-{len(fractions)};')
            lines += [f'  {phrase}' for phrase in report['crossovers'][backend]]
    return '\n'.join(lines)
