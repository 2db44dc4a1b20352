"""Segments of a network as ONNX graphs in memory.

The arrays of a state travel as ``feature`` (B, H, W, C), ``latent`` (B, N, C) and ``previous_logits`` (B, K): with the channels last, ONNX
Runtime's own change of layout at the ends of a graph takes the transposition in. Folders exported before call the last one ``carry``; the
engine takes the names from the manifest and gives none of them a meaning.

Shape suffixes: B rows, C channels, H/W pixels, N latent tokens, K classes.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import onnx_ir
import torch
from torch import Tensor, nn

from dynperceiver_runtime import UserError

from ...layers import without_global_hooks
from ...models import DynPerceiver
from ...structures import NetworkState
from .cleaning import check_graph, clean_graph, read_inputs

__all__ = ['ENTRIES', 'ExportedGraph', 'SegmentGraph', 'export_graphs', 'export_module', 'graph_bytes']

ENTRIES = ('feature', 'latent', 'previous_logits')


@dataclass(frozen=True)
class ExportedGraph:
    """A segment's graph and how it goes with the state.

    Attributes:
        model: The ``onnx_ir.Model``.
        inputs: See :class:`~dynperceiver_runtime.engines.manifest.GraphEntry`, as the others.
        updates: Entries of the next state that the graph gives, and its output for each.
        keeps: Entries of the next state that it leaves as they are.
    """

    model: Any
    inputs: tuple[str, ...]
    updates: dict[str, str]
    keeps: tuple[str, ...]

    @property
    def num_nodes(self) -> int:
        """Operators in the graph."""
        return len(self.model.graph)


def _channels_last(feature: Tensor) -> Tensor:
    """A map of images (B, C, H, W) as it travels; anything else, such as tokens, travels as it is."""
    return feature.permute(0, 2, 3, 1) if feature.dim() == 4 else feature


def _channels_first(feature: Tensor) -> Tensor:
    return feature.permute(0, 3, 1, 2) if feature.dim() == 4 else feature


class SegmentGraph(nn.Module):
    """A segment with arrays in the place of a state.

    Args:
        network: The network, folded.
        number: The segment's number, from 1.
        given: Entries of the state before, for all segments but the first.
        entries: Entries of the next state to return after the logits.
    """

    def __init__(self, network: DynPerceiver, number: int, given: Sequence[str] = ENTRIES, entries: Sequence[str] = ()) -> None:
        super().__init__()
        self.network = network
        self.number = number
        self.given = tuple(given)
        self.entries = tuple(entries)

    def advance(self, arrays: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor | None]]:
        """Logits, and the next state's arrays by entry; one that stays what it was is ``None``."""
        network = self.network
        if self.number == 1:
            state = network.start(arrays[0])
        else:
            before = dict(zip(self.given, arrays, strict=True))
            feature_BCHW = _channels_first(before['feature'])
            state = NetworkState(feature_BCHW, before['latent'], before.get('previous_logits'), num_frames=network.num_frames)
        logits_SK, after = network.segments[self.number - 1](state)
        pairs = {
            'feature': (state.feature_BCHW, after.feature_BCHW),
            'latent': (state.latent_BNC, after.latent_BNC),
            'previous_logits': (state.previous_logits_BK, after.previous_logits_BK),
        }
        changed = {name: None if new is old else new for name, (old, new) in pairs.items()}
        if changed['feature'] is not None:
            changed['feature'] = _channels_last(changed['feature'])
        return logits_SK, changed

    def forward(self, *arrays: Tensor) -> tuple[Tensor, ...]:
        """Images, or the entries of the state before, to the logits and the entries asked for."""
        logits_SK, changed = self.advance(arrays)
        outputs = [logits_SK]
        for name in self.entries:
            array = changed[name]
            assert array is not None
            outputs.append(array)
        return tuple(outputs)


@contextmanager
def _without_chatter() -> Iterator[None]:
    """No word from the exporter about packages that it could use and does not need."""
    loggers = [logging.getLogger(name) for name in ('torch.onnx', 'torch.export', 'onnxscript', 'onnx_ir')]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _own_errors() -> Iterator[None]:
    """An error of ours as it was raised, and not as the exporter reports it."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__
        if cause is None:
            raise
        raise type(cause)(str(cause)) from None


def export_module(
    module: nn.Module, arrays: Sequence[Tensor], inputs: Sequence[str], outputs: Sequence[str] | None, num_frames: int, opset: int = 20
) -> Any:
    """The graph of a module, with any number of samples: the one place where PyTorch's exporter is called.

    Args:
        module: Folded, on the CPU, in float32, without hooks.
        arrays: What it runs on, with the rows of two samples each.
        inputs: Names of the arrays.
        outputs: Names of what it returns; ``None`` leaves them to the exporter.
        num_frames: Rows per sample.
        opset: Version of ONNX's operators.

    Returns:
        An ``onnx_ir.Model``, cleaned.
    """
    rows: Any = torch.export.Dim('batch') if num_frames == 1 else num_frames * torch.export.Dim('clips')
    shapes: Any = tuple({0: rows} for _ in arrays)
    with _without_chatter(), without_global_hooks(), torch.no_grad(), _own_errors():
        program = torch.onnx.export(
            module,
            tuple(arrays),
            dynamo=True,
            dynamic_shapes=(shapes,) if isinstance(module, SegmentGraph) else shapes,  # that one takes any number of arrays
            input_names=list(inputs),
            output_names=None if outputs is None else list(outputs),
            opset_version=opset,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    clean_graph(program.model)
    return program.model


def graph_bytes(model: Any) -> bytes:
    """A graph as the content of an ``.onnx`` file.

    Args:
        model: An ``onnx_ir.Model``.
    """
    content: bytes = onnx_ir.to_proto(model).SerializeToString()
    return content


def export_graphs(network: DynPerceiver, image_size: tuple[int, int], opset: int) -> tuple[ExportedGraph, ...]:
    """One graph per segment, with any number of samples.

    What no later segment reads is no output, and what a segment does not change does not pass through it. The segments are exported from
    the last to the first, because only a graph shows what is read.

    Args:
        network: The network with exits, folded, on the CPU, in float32.
        image_size: Height and width of the images in pixels.
        opset: Version of ONNX's operators.

    Raises:
        ExportError: If a graph has operators that it must not have.
    """
    states: list[dict[str, Tensor]] = [{'images': torch.zeros(2 * network.num_frames, 3, *image_size)}]
    changes: list[set[str]] = []
    numbers = [parts.number for parts in network.segment_parts]
    with torch.no_grad():
        for number in numbers:
            before = states[-1]
            _, changed = SegmentGraph(network, number, tuple(before)).advance(tuple(before.values()))
            changes.append({name for name, array in changed.items() if array is not None})
            after = {name: before.get(name) if array is None else array for name, array in changed.items()}
            states.append({name: array for name, array in after.items() if array is not None})
    graphs: list[ExportedGraph] = []
    needed: tuple[str, ...] = ()
    for number in reversed(numbers):
        changed_names, before = changes[number - 1], states[number - 1]
        updates = {name: f'next_{name}' for name in needed if name in changed_names}
        if 'previous_logits' in updates and network.num_frames == 1:  # for clips, the output ``logits`` is a mean over the frames
            updates['previous_logits'] = 'logits'
        entries = [name for name, output in updates.items() if output != 'logits']
        keeps = tuple(name for name in needed if name not in changed_names)
        outputs = ['logits', *(updates[name] for name in entries)]
        segment = SegmentGraph(network, number, tuple(before), entries)
        model = export_module(segment, tuple(before.values()), tuple(before), outputs, network.num_frames, opset)
        check_graph(model, number, network.feature_branch.computes_shapes)
        inputs = read_inputs(model)
        graphs.append(ExportedGraph(model, inputs, updates, keeps))
        needed = tuple(name for name in ENTRIES if name in inputs or name in keeps)
    return tuple(reversed(graphs))
