"""A race of a network's policies against networks without exits: who is right on which samples, and how long each takes where this runs.

Shape suffixes: R rounds, E exits, S samples, B images, C channels, H/W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from dynperceiver_runtime import ExitPolicy, UserError
from dynperceiver_runtime.policy.exit_policy import NEVER

from ..calibration import HeldOutScores
from ..calibration.held_out_logits import SampleForm, batch_images
from ..deployment import ENGINES
from ..deployment.runner import DynamicRunner
from ..models import DynPerceiver
from .advice import POLICY, SMALLER, STATIC, Candidate, Setting, Verdict, choose, policy_candidates
from .speed import folded_call, mix_call, onnx_session, script_exits, session_call
from .timing import num_torch_threads, time_calls

__all__ = ['PlainNetwork', 'answer_samples', 'judged_samples', 'plain_networks', 'race', 'smaller_sizes']

SIZE_FRACTIONS = (0.875, 0.75, 0.625, 0.5)
SIZE_STEP, LARGE_STEP = 8, 16  # pixels, for inputs below and from 128 on
NUM_MIXES = 9  # policies whose batches are timed as they narrow
NEIGHBOURS = 2  # of the one that would be chosen by its exits' times, on both sides
CANNOT_RUN = (RuntimeError, ValueError, IndexError, AssertionError)  # what networks of any make say of a size that they cannot take


@dataclass(frozen=True, eq=False)
class PlainNetwork:
    """A network without exits, and whom it is right about.

    Attributes:
        name: Name for people.
        kind: :data:`~dynperceiver.benchmark.advice.STATIC` or :data:`~dynperceiver.benchmark.advice.SMALLER`.
        network: The network: images in, logits out, or a sequence whose last entry they are.
        image_size: Height and width of its images in pixels.
        num_rows: Images of a sample: frames of all views of a video, otherwise 1.
        calibration_right_S: Whether it is right about each calibration sample.
        judged_right_S: The same for the samples that judge.
    """

    name: str
    kind: str
    network: nn.Module
    image_size: tuple[int, int]
    num_rows: int
    calibration_right_S: np.ndarray
    judged_right_S: np.ndarray


def smaller_sizes(image_size: tuple[int, int]) -> list[tuple[int, int]]:
    """Smaller inputs to try a network on: from seven eighths down to half of the height and width, in steps that suit CNNs."""
    step = LARGE_STEP if min(image_size) >= 128 else SIZE_STEP
    found = [tuple(max(step, round(fraction * side / step) * step) for side in image_size) for fraction in SIZE_FRACTIONS]
    return [(size[0], size[1]) for size in dict.fromkeys(found) if size[0] < image_size[0] and size[1] < image_size[1]]


def _logits(network: nn.Module, images_BCHW: Tensor, num_samples: int, name: str) -> np.ndarray:
    """Logits of samples, those of a sample's images averaged, shape (S, K)."""
    with torch.inference_mode():
        outputs = network(images_BCHW)
    logits = outputs[-1] if isinstance(outputs, tuple | list) else outputs
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) % num_samples:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(
            f'{name}: its backbone gives {shape} for {len(images_BCHW)} images and no class scores; pass config and checkpoint of a '
            'classifier whose backbone is of type dynperceiver.StaticTrunk'
        )
    return logits.float().reshape(num_samples, -1, logits.shape[1]).mean(1).cpu().numpy()


def answer_samples(
    model: nn.Module,
    network: nn.Module,
    loader: Iterable[Any],
    name: str,
    num_classes: int,
    sizes: Sequence[tuple[int, int]] = (),
) -> tuple[dict[tuple[int, int], np.ndarray], int]:
    """Whether a network without exits is right about each sample of a loader, at the samples' own size and at smaller ones.

    Args:
        model: Classifier or recognizer, whose data preprocessor normalises.
        network: What gives the logits.
        loader: Loader of labelled samples, in a fixed order.
        name: Of the network, for messages.
        num_classes: Classes that it must have.
        sizes: Heights and widths that the normalised images are resized to as well; those that the network cannot take are left out.

    Returns:
        Booleans by size, the samples' own first, each of shape (S,); and the images of a sample.

    Raises:
        UserError: If there are no samples, they differ in size, or the network gives no scores of these classes.
    """
    right: dict[tuple[int, int], list[np.ndarray]] = {}
    own, num_rows, wanted = None, 1, list(sizes)
    network.eval()
    for batch in loader:
        images_BCHW, label_S = batch_images(model, batch)
        size, num_rows = (int(images_BCHW.shape[-2]), int(images_BCHW.shape[-1])), len(images_BCHW) // len(label_S)
        if own not in (None, size):
            raise UserError(f'{name}: samples of {size} come after {own}; let the pipeline end with a crop or resize to one size')
        own = size
        logits_SK = _logits(network, images_BCHW, len(label_S), name)
        if logits_SK.shape[1] != num_classes:
            raise UserError(
                f'{name} tells {logits_SK.shape[1]} classes apart and the network {num_classes}; pass a static network that was trained '
                'for the same classes'
            )
        right.setdefault(own, []).append(logits_SK.argmax(1) == label_S)
        for smaller in tuple(wanted):
            try:
                resized_BCHW = interpolate(images_BCHW, smaller, mode='bilinear', antialias=True)
                right.setdefault(smaller, []).append(_logits(network, resized_BCHW, len(label_S), name).argmax(1) == label_S)
            except CANNOT_RUN:
                wanted.remove(smaller)
                right.pop(smaller, None)
    if own is None:
        raise UserError(f'{name}: there are no samples to answer; check the data of the config')
    return {size: np.concatenate(parts) for size, parts in right.items()}, num_rows


def plain_networks(
    model: nn.Module,
    network: nn.Module,
    loaders: tuple[Iterable[Any], Iterable[Any]],
    name: str,
    num_classes: int,
    judged_S: np.ndarray,
    sizes: Sequence[tuple[int, int]] | None = None,
) -> tuple[list[PlainNetwork], list[str]]:
    """A network without exits, and itself at smaller inputs, each with its answers.

    Args:
        model: See :func:`answer_samples`.
        network: See there.
        loaders: Of the calibration and of the test samples.
        name: For people.
        num_classes: Classes that it must have.
        judged_S: Numbers of the test samples that judge.
        sizes: Smaller inputs; ``None`` for those of :func:`smaller_sizes`.

    Returns:
        The networks; and the names of inputs that it cannot take.

    Raises:
        UserError: See :func:`answer_samples`.
    """
    first, _ = batch_images(model, next(iter(loaders[0])))
    own = (int(first.shape[-2]), int(first.shape[-1]))
    wanted = [size for size in (smaller_sizes(own) if sizes is None else sizes) if size != own]
    right, num_rows = answer_samples(model, network, loaders[0], name, num_classes, wanted)
    judged, _ = answer_samples(model, network, loaders[1], name, num_classes, [size for size in right if size != own])
    found = []
    for size in (size for size in right if size in judged):
        kind, text = (STATIC, name) if size == own else (SMALLER, f'{name} at {size[0]}x{size[1]}')
        found.append(PlainNetwork(text, kind, network, size, num_rows, right[size], judged[size][judged_S]))
    done = {plain.image_size for plain in found}
    return found, [f'{name} at {height}x{width}' for height, width in wanted if (height, width) not in done]


def judged_samples(num_samples: int, fraction: float = 0.5, seed: int = 0) -> np.ndarray:
    """Numbers of the test samples that judge, in rising order: always the same of so many.

    Args:
        num_samples: Test samples.
        fraction: Part of them, in (0, 1]; 1 for all.
        seed: Of the draw.

    Raises:
        UserError: If the fraction is outside, or there is no sample.
    """
    if not 0 < fraction <= 1 or num_samples < 1:
        raise UserError(f'a part of {fraction} of {num_samples} test samples: pass a fraction above 0 and up to 1, of 1 or more samples')
    count = max(1, round(fraction * num_samples))
    return np.sort(np.random.default_rng(seed).permutation(num_samples)[:count])


class _Machine:
    """What runs on an engine with a number of threads."""

    def __init__(
        self, network: DynPerceiver, form: SampleForm, statics: Sequence[PlainNetwork], engine: str, num_threads: int
    ) -> None:
        self.form, self.statics, self.engine, self.num_threads = form, statics, engine, num_threads
        self.num_rows = form.views * network.num_frames
        self.is_onnx = engine == 'onnxruntime'
        options: dict[str, Any] = dict(num_threads=num_threads) if self.is_onnx else {}
        never = ExitPolicy((NEVER,) * (network.num_exits - 1))
        views: dict[str, Any] = dict(views=form.views, average_views=form.average_views)
        self.runner = DynamicRunner(network, never, engine, **views, **options)
        self.sessions: dict[str, Any] = {}

    def images(self, batch_size: int, num_rows: int, image_size: tuple[int, int]) -> Tensor:
        """Images of a batch: what they show changes no time."""
        return torch.randn(batch_size * num_rows, 3, *image_size, generator=torch.Generator().manual_seed(batch_size))

    def batch(self, batch_size: int) -> Any:
        """A batch as the runner takes it."""
        images_BCHW = self.images(batch_size, self.num_rows, (self.form.height, self.form.width))
        return images_BCHW.numpy() if self.is_onnx else images_BCHW

    def static_call(self, plain: PlainNetwork, batch_size: int) -> Callable[[], object]:
        """A call of a network without exits."""
        images_BCHW = self.images(batch_size, plain.num_rows, plain.image_size)
        if not self.is_onnx:
            return folded_call(plain.network, images_BCHW)
        if plain.name not in self.sessions:
            self.sessions[plain.name] = onnx_session(plain.network, plain.image_size, self.num_threads)
        return session_call(self.sessions[plain.name], images_BCHW)


def _exit_name(exit_index: int) -> str:
    return f'exit {exit_index + 1}'


def _narrowing(
    machine: _Machine, batch_size: int, candidates: list[Candidate], max_accuracy_drop: float, exit_ms_E: np.ndarray, **timing: Any
) -> list[Candidate]:
    """The candidates, with the time that narrowing batches really take over what their exits' times say.

    Some policies are timed over batches whose samples leave in the fractions that they expect; for those between them it is interpolated.
    """
    numbers = [number for number, one in enumerate(candidates) if one.kind == POLICY]
    chosen = choose([candidates[number] for number in numbers], max_accuracy_drop)
    near = range(max(0, chosen - NEIGHBOURS), min(len(numbers), chosen + NEIGHBOURS + 1))
    spread = np.linspace(0, len(numbers) - 1, max(2, NUM_MIXES - len(near))).round().astype(int).tolist()
    timed = [numbers[place] for place in sorted({*near, *spread})]
    images, last = machine.batch(batch_size), len(exit_ms_E) - 1
    calls: dict[str, Callable[[], object]] = {_exit_name(last): partial(machine.runner, images, max_exit=last)}
    scales, num_batches = {}, {}
    for number in timed:
        calls[str(number)], num_batches[number] = mix_call(machine.runner, images, batch_size, candidates[number].exit_fractions)
    table = time_calls(calls, **timing)
    said_ms = {number: float(np.asarray(candidates[number].exit_fractions) @ exit_ms_E) for number in numbers}
    for number in timed:  # whole samples leave, whose fractions differ a little
        exit_S = script_exits(candidates[number].exit_fractions, num_batches[number] * batch_size)
        mean_ms = float(np.mean(exit_ms_E[exit_S]))
        scales[number] = table.ratio(str(number), _exit_name(last)) / num_batches[number] * float(exit_ms_E[-1]) / mean_ms
    order = sorted(timed, key=said_ms.__getitem__)
    found = list(candidates)
    for number in numbers:
        between = np.interp(said_ms[number], [said_ms[one] for one in order], [scales[one] for one in order])
        found[number] = replace(candidates[number], scale=scales.get(number, float(between)))
    return found


def _race_once(
    machine: _Machine, setting: Setting, scores: tuple[HeldOutScores, HeldOutScores], options: Mapping[str, Any], timing: Mapping[str, Any]
) -> Verdict:
    """Race in one setting; what is compared takes turns."""
    batch_size, (calibration, judged), drop = setting.batch_size, scores, options['max_accuracy_drop']
    images = machine.batch(batch_size)
    exits = range(calibration.num_exits)
    calls: dict[str, Callable[[], object]] = {_exit_name(k): partial(machine.runner, images, max_exit=k) for k in exits}
    calls |= {f'static {number}': machine.static_call(plain, batch_size) for number, plain in enumerate(machine.statics)}
    rounds_ms = {name: rounds_R / batch_size for name, rounds_R in time_calls(calls, **timing).rounds_ms.items()}
    exit_ms_RE = np.stack([rounds_ms[_exit_name(k)] for k in exits], axis=1)
    candidates = policy_candidates(calibration, judged, exit_ms_RE, options['num_budgets'])
    for number, plain in enumerate(machine.statics):
        right_S = plain.judged_right_S
        times_R1, nowhere_S = rounds_ms[f'static {number}'][:, None], np.zeros(len(right_S), np.int64)
        candidates.append(Candidate(plain.name, plain.kind, times_R1, (1.0,), plain.calibration_right_S, nowhere_S, right_S))
    if batch_size > 1:
        candidates = _narrowing(machine, batch_size, candidates, drop, np.median(exit_ms_RE, axis=0), **timing)
    return Verdict.of(setting, candidates, drop)


def race(
    network: DynPerceiver,
    form: SampleForm,
    calibration: HeldOutScores,
    judged: HeldOutScores,
    statics: Sequence[PlainNetwork],
    *,
    engines: Sequence[str] = ('onnxruntime',),
    threads: Sequence[int | None] = (None,),
    batch_sizes: Sequence[int] = (1,),
    max_accuracy_drop: float = 0.005,
    num_budgets: int = 33,
    rounds: int = 25,
    max_seconds: float | None = 60.0,
    progress: Callable[[str], Any] = lambda what: None,
) -> list[Verdict]:
    """Race a network's policies against networks without exits, in every combination of engine, number of threads and batch size.

    At batch size 1 a policy's time is the sum of its exits' times, each weighted by the fraction of samples that leave there. At others,
    batches whose samples leave in these fractions are timed, narrowing included.

    Args:
        network: The network with exits.
        form: Form of its samples.
        calibration: Samples that policies are solved on and choices are made on.
        judged: Samples that judge.
        statics: The networks without exits.
        engines: Names in :data:`~dynperceiver.deployment.ENGINES`.
        threads: Numbers of threads; ``None`` for PyTorch's.
        batch_sizes: Samples per batch.
        max_accuracy_drop: See :func:`~dynperceiver.benchmark.advice.choose`.
        num_budgets: Policies that are solved.
        rounds: Rounds in which all take turns.
        max_seconds: Stop a race's measurements after so many seconds, but not before three rounds.
        progress: Called with what is raced next.

    Returns:
        A verdict per combination, in this order.

    Raises:
        UserError: If an engine is unknown or not installed, or a number is not positive.
    """
    for name in engines:
        ENGINES.find(name)
    if not batch_sizes or min(batch_sizes) < 1:
        raise UserError(f'batch_sizes={tuple(batch_sizes)}: pass one or more, each of 1 or more samples')
    timing = dict(rounds=rounds, max_seconds=max_seconds)
    options = dict(max_accuracy_drop=max_accuracy_drop, num_budgets=num_budgets)
    verdicts = []
    for engine in dict.fromkeys(engines):
        for wanted in dict.fromkeys(threads):
            with num_torch_threads(wanted) as num_threads:
                machine = _Machine(network, form, statics, engine, num_threads)
                for batch_size in sorted(set(batch_sizes)):
                    setting = Setting(engine, num_threads, batch_size)
                    progress(setting.text())
                    verdicts.append(_race_once(machine, setting, (calibration, judged), options, timing))
    return verdicts
