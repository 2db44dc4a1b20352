"""Does a frozen network answer as the one that it was made from? Both run on the same random images, and where they part is named.

Shape suffixes: B rows, C channels, H/W pixels, S samples, K classes, E exits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dynperceiver_runtime.engines.base import EngineError

from ..layers import copy_without_hooks
from ..models import DynPerceiver
from .batch_norms import Trace
from .folding import computing, random_images

__all__ = ['FreezeError', 'Reference', 'compare_logits', 'run_exits', 'verify_frozen', 'verify_samples']

Visit = Callable[[str, nn.Module, list[Tensor]], None]


class FreezeError(EngineError):
    """A network cannot be frozen; the message names the layer and says what to try."""


def compare_logits(logits_SK: np.ndarray, expected_SK: np.ndarray) -> float:
    """Largest difference of logits over the larger of 1 and the largest logit; infinite where one is not finite or the shapes differ."""
    if logits_SK.shape != expected_SK.shape or not (np.isfinite(logits_SK).all() and np.isfinite(expected_SK).all()):
        return math.inf
    if not logits_SK.size:
        return 0.0
    return float(np.abs(logits_SK - expected_SK).max() / max(1.0, float(np.abs(expected_SK).max())))


def _cause(error: Exception) -> str:
    return f'{type(error).__name__}: {" ".join(str(error).split())}'


def run_exits(network: nn.Module, images_BCHW: Tensor) -> list[np.ndarray]:
    """Logits of all exits in float64, each of shape (S, K), by a network on the device of the images and of their type."""
    with computing(images_BCHW.device):
        return [logits_SK.double().cpu().numpy() for logits_SK in network(images_BCHW)]


def _watch(network: nn.Module, images_BCHW: Tensor, visit: Visit) -> None:
    """Run a network and show the outputs of its layers, by name, in the order in which they end, up to an error that ends the run."""

    def show(name: str, module: nn.Module, args: Any, output: Any) -> None:
        visit(name, module, [leaf for leaf in tree_leaves(_plain(output)) if isinstance(leaf, Tensor) and leaf.is_floating_point()])

    handles = [module.register_forward_hook(partial(show, name)) for name, module in network.named_modules() if name]
    try:
        run_exits(network, images_BCHW)
    except Exception:
        return
    finally:
        for handle in handles:
            handle.remove()


def _plain(output: Any) -> Any:
    """An output whose states are dicts, which can be looked into."""
    if isinstance(output, tuple):
        return tuple(map(_plain, output))
    return dict(vars(output)) if hasattr(output, '__dataclass_fields__') else output


class Reference:
    """A network's answers to random images, in float64 on the CPU where it runs there, otherwise as it is.

    Args:
        network: The network with exits; it is copied.
        image_size: Height and width of the images in pixels.

    Attributes:
        network: The copy that was run, in evaluation mode, without gradients and hooks.
        images_BCHW: Images of two samples.
        logits_ESK: Logits of the exits.
        places: Where its norms can be folded.
        tolerance: Largest difference that rounding explains: half the digits of the coarsest type that the network computes in.

    Raises:
        FreezeError: If the network cannot run, or its logits are no finite numbers.
    """

    def __init__(self, network: DynPerceiver, image_size: tuple[int, int]) -> None:
        errors: list[Exception] = []
        for in_float64 in (True, False):
            try:
                copied = copy_without_hooks(network).eval().requires_grad_(False)
                self.network = copied.cpu().double() if in_float64 else copied
                self.images_BCHW = random_images(self.network, image_size)
                with Trace(self.network) as trace:
                    self.logits_ESK = run_exits(self.network, self.images_BCHW)
                break
            except Exception as error:  # whatever the layers of others raise
                errors.append(error)
        else:
            raise FreezeError(
                f'the network cannot run on images of {image_size[0]}x{image_size[1]} pixels (height x width): {_cause(errors[-1])}; try '
                'another size, and run it once as network.eval()(images)'
            ) from errors[-1]
        self.places = trace.places()
        self.tolerance = math.sqrt(trace.epsilon)
        self._check_numbers()

    def _check_numbers(self) -> None:
        bad_E = [number for number, logits_SK in enumerate(self.logits_ESK, 1) if not np.isfinite(logits_SK).all()]
        if not bad_E:
            return
        layer, kind = self._first_layer(lambda outputs: not all(output.isfinite().all() for output in outputs))
        weights = self._bad_weights(f'{layer}.') or self._bad_weights('')
        more = f' and {len(weights) - 4} more' if len(weights) > 4 else ''
        raise FreezeError(
            f'exit {bad_E[0]} gives logits that are not finite on random images; the first layer whose output is not finite is {layer} '
            f'({kind}), '
            + (
                f'because of the weights {", ".join(weights[:4])}{more}; load a checkpoint from before the training failed'
                if weights
                else 'whose weights are finite; check how large they are, and that the BatchNorm statistics are trained'
            )
        )

    def _bad_weights(self, prefix: str) -> list[str]:
        return [
            f'{name} ({int((~parameter.isfinite()).sum())} of {parameter.numel()} not finite)'
            for name, parameter in (*self.network.named_parameters(), *(self.network.named_buffers() if prefix else ()))
            if name.startswith(prefix) and parameter.is_floating_point() and not parameter.isfinite().all()
        ]

    def _first_layer(self, matches: Callable[[list[Tensor]], bool]) -> tuple[str, str]:
        """Name and type of the first layer with such outputs."""
        found = [('the network', type(self.network).__name__)]

        def visit(name: str, module: nn.Module, outputs: list[Tensor]) -> None:
            if len(found) == 1 and matches(outputs):
                found.append((name, type(module).__name__))

        _watch(self.network, self.images_BCHW, visit)
        return found[-1]

    def where_they_part(self, network: nn.Module, images_BCHW: Tensor, passed_over: Collection[str] = ()) -> str:
        """The first layer whose output differs between this network and another that has layers of the same names.

        Args:
            network: The other one.
            images_BCHW: What it runs on: the first of these images, or all.
            passed_over: Names of layers whose outputs are expected to differ.
        """
        expected: dict[str, list[list[Tensor]]] = {}
        others = set(passed_over)
        changed: list[Tensor] = []

        def keep(name: str, module: nn.Module, outputs: list[Tensor]) -> None:
            if name in others:
                changed.extend(outputs)
            elif any(output is tensor for output in outputs for tensor in changed):
                others.add(name)  # it hands on what another layer made
            expected.setdefault(name, []).append([output.clone() for output in outputs])

        _watch(self.network, self.images_BCHW, keep)
        found: list[str] = []
        num_calls: dict[str, int] = {}

        def visit(name: str, module: nn.Module, outputs: list[Tensor]) -> None:
            call = num_calls[name] = num_calls.get(name, -1) + 1
            if found or name in others or call >= len(expected.get(name, ())):
                return
            for output, one in zip(outputs, expected[name][call], strict=False):
                one = one[: len(output)] if one.dim() and output.dim() else one
                if compare_logits(output.double().cpu().numpy(), one.double().cpu().numpy()) > self.tolerance:
                    found.append(f'{name} ({type(module).__name__})')
                    return

        _watch(network, images_BCHW, visit)
        return found[0] if found else 'no layer that both have'


def verify_frozen(reference: Reference, network: DynPerceiver, passed_over: Collection[str] = ()) -> None:
    """Check that a network for inference gives the logits of the one that it was made from.

    Args:
        reference: Answers of the network that it was made from.
        network: The one for inference, of the same type, on the same device.
        passed_over: Names of layers whose outputs folding changes: what follows them makes up for it.

    Raises:
        FreezeError: If it does not; the message names the first layer where the two part.
    """
    try:
        logits_ESK = run_exits(network, reference.images_BCHW)
    except Exception as error:  # whatever the layers of others raise
        raise FreezeError(
            f'the folded network cannot run, and the network itself can ({_cause(error)}); freeze it with folded=False, or have its layers '
            'call the layers that they hold instead of reading their weights'
        ) from error
    for number, (found_SK, expected_SK) in enumerate(zip(logits_ESK, reference.logits_ESK, strict=True), 1):
        difference = compare_logits(found_SK, expected_SK)
        if difference > reference.tolerance:
            layer = reference.where_they_part(network, reference.images_BCHW, passed_over)
            raise FreezeError(
                f"logits of exit {number} differ by {difference:.3g} between the folded network and the network itself, where rounding "
                f'explains {reference.tolerance:.0e}; they part at {layer}. Folding does not know what this layer does: freeze the network '
                'with folded=False, and report the layer'
            )


def verify_samples(reference: Reference, network: DynPerceiver, passed_over: Collection[str] = ()) -> None:
    """Check that a sample's logits do not depend on which others are in its batch: those leave while it stays.

    Args:
        reference: Answers to a batch.
        network: The network for inference, which answered the batch alike.
        passed_over: See :func:`verify_frozen`.

    Raises:
        FreezeError: If they do; the message names the first layer that mixes samples.
    """
    alone_BCHW = reference.images_BCHW[: network.num_frames]
    difference = 0.0
    try:
        for found_SK, expected_SK in zip(run_exits(network, alone_BCHW), reference.logits_ESK, strict=True):
            difference = max(difference, compare_logits(found_SK, expected_SK[:1]))
        change = f'change by {difference:.3g} of the largest one'
    except Exception as error:  # whatever the layers of others raise
        difference, change = math.inf, f'cannot be computed ({_cause(error)})'
    if difference > reference.tolerance:
        layer = reference.where_they_part(network, alone_BCHW, passed_over)
        raise FreezeError(
            f"a sample's logits {change} when it is alone in its batch; the first layer that mixes samples is {layer}. With early exits "
            'other samples leave the batch before it: use a layer that treats every sample by itself, for example a BatchNorm with '
            'track_running_stats=True'
        )
