"""What is taken out of exported graphs, and what must not be in them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from dynperceiver_runtime.errors import MissingPackageError, UserError

try:
    import onnx_ir
    import onnxscript  # noqa: F401  what PyTorch's exporter needs
    from onnx_ir.passes import common
except ImportError as error:
    raise MissingPackageError(f'exporting needs ONNX ({error}); install it: pip install onnx onnxscript onnxruntime') from error

__all__ = ['FORBIDDEN', 'ExportError', 'check_graph', 'clean_graph', 'read_inputs']

SHAPES = 'arithmetic on shapes'
FORBIDDEN = {
    **dict.fromkeys(('Shape', 'Size', 'Range', 'ConstantOfShape', 'Expand', 'NonZero'), SHAPES),
    **dict.fromkeys(('ScatterND', 'ScatterElements', 'Loop', 'If', 'Scan'), 'writing in place, or control flow'),
    **dict.fromkeys(('Dropout', 'Identity'), 'what has no place in inference'),
}
"""Operators that slow a graph down and that none of ours needs, and what they are."""


class ExportError(UserError):
    """A network cannot be exported; the message says what was expected and what to try."""


def clean_graph(model: Any) -> None:
    """Take out, in place, inputs that nothing reads, nodes that do nothing, and notes on where in the sources nodes come from.

    Args:
        model: An ``onnx_ir.Model``.
    """
    passes = [
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
        common.ClearMetadataAndDocStringPass(),
    ]
    onnx_ir.passes.Sequential(*passes)(model)
    graph = model.graph
    for value in list(graph.inputs):
        if not value.uses() and not value.is_graph_output():
            graph.inputs.remove(value)
    model.metadata_props.clear()
    graph.metadata_props.clear()
    for value in [*graph.inputs, *graph.initializers.values(), *(output for node in graph for output in node.outputs)]:
        value.metadata_props.clear()


def read_inputs(model: Any) -> tuple[str, ...]:
    """Names of a graph's inputs."""
    return tuple(str(value.name) for value in model.graph.inputs)


def check_graph(model: Any, number: int, computes_shapes: bool = False) -> None:
    """Check that a segment's graph computes on numbers alone.

    Args:
        model: An ``onnx_ir.Model``.
        number: The segment's number, for the message.
        computes_shapes: Whether it may compute with shapes, as the code of other libraries does.

    Raises:
        ExportError: If it has an operator of :data:`FORBIDDEN`, or passes an input on.
    """
    forbidden = {name for name, what in FORBIDDEN.items() if not (computes_shapes and what == SHAPES)}
    found = Counter(node.op_type for node in model.graph.all_nodes() if node.op_type in forbidden)
    if found:
        listed = ', '.join(f'{count} {name} ({FORBIDDEN[name]})' for name, count in sorted(found.items()))
        raise ExportError(
            f'the graph of segment {number} has {listed}, where all shapes but the batch size are constants; give the layer that brings '
            'them a form without them under torch.compiler.is_exporting()'
        )
    passed = [value.name for value in model.graph.outputs if value.is_graph_input()]
    if passed:
        raise ExportError(f'the graph of segment {number} passes inputs on as {passed}; leave them out of its outputs')
