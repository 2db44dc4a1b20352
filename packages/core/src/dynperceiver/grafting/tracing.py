"""A network as one graph of its operators, with the shapes of what they give.

PyTorch's symbolic tracer comes first: it keeps the network's modules, so that BatchNorm can be folded and images of other sizes run. Where
a network's code is beyond it, ``torch.export`` gives a graph of plain operators; and where that holds for one number of samples only, it is
the graph of a single sample, which batches go through one by one.

Shape suffixes: B samples.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from dynperceiver_runtime import UserError

__all__ = ['GraftError', 'Traced', 'module_path', 'only_tensor', 'trace']


class GraftError(UserError):
    """A network cannot be grafted as asked; the message says where it fails and what to do."""


class _Recorder(fx.Interpreter):
    """Runs a graph and writes down at each node what it gave."""

    def run_node(self, node: fx.Node) -> Any:
        result = super().run_node(node)
        node.meta['result'] = result if node.meta.get('is_constant') else None
        node.meta['gives_tensor'] = isinstance(result, Tensor)
        node.meta['value'] = tuple(result.shape) if isinstance(result, Tensor) else result if isinstance(result, int) else None
        return result


class _Tracer(fx.Tracer):
    """Symbolic tracing that stops at PyTorch's own layers, and at modules that are marked with ``is_leaf_for_graft``."""

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return getattr(module, 'is_leaf_for_graft', False) or super().is_leaf_module(module, qualified_name)


class Traced:
    """A network's graph.

    Args:
        root: Holds the modules and parameters that the graph names.
        graph: The graph, with one placeholder.
        example: What it was tried on.
        is_single: Whether it takes a single sample only.

    Attributes:
        dependent: Operators whose result depends on the input. What depends on neither input nor weights is marked as a constant.
    """

    def __init__(self, root: nn.Module, graph: fx.Graph, example: Tensor, is_single: bool = False) -> None:
        self.root = root
        self.graph = graph
        self.example = example
        self.is_single = is_single
        self.nodes = [node for node in graph.nodes if node.op != 'output']
        (self.input,) = [node for node in self.nodes if node.op == 'placeholder']
        (output,) = [node for node in graph.nodes if node.op == 'output']
        self.output: fx.Node = _only_node(output.args[0])
        self.index = {node: number for number, node in enumerate(self.nodes)}
        self.dependent = self._reached([self.input])
        variable = self._reached([node for node in self.nodes if node.op in ('placeholder', 'get_attr', 'call_module')])
        for node in self.nodes:
            node.meta['is_constant'] = node not in variable

    def _reached(self, sources: Sequence[fx.Node]) -> set[fx.Node]:
        """Operators that depend on some."""
        found = set(sources)
        for node in self.nodes:
            if any(source in found for source in node.all_input_nodes):
                found.add(node)
        return found


def _only_node(value: Any) -> fx.Node:
    value = only_tensor(value)
    if not isinstance(value, fx.Node):
        raise GraftError(
            f'the network returns {type(value).__name__} of {len(value) if isinstance(value, tuple | list) else "no"} parts, but logits '
            'alone, one tensor (samples, classes), are expected; wrap it in a module that returns them'
        )
    return value


def module_path(node: fx.Node) -> tuple[str, ...]:
    """Names of the modules that a node is part of, the outermost first."""
    stack = node.meta.get('nn_module_stack') or {}
    names = []
    for key, (value, *_) in stack.items():
        name = value if isinstance(value, str) and not value.startswith('L__self__') else str(key)
        name = name.removeprefix('L__self___').removeprefix("L['self'].")
        if name and name != "L['self']":
            names.append(name)
    if node.op == 'call_module' and str(node.target) not in names:
        names.append(str(node.target))
    return tuple(names)


def _symbolic(network: nn.Module, example: Tensor) -> Traced:
    return Traced(network, _Tracer().trace(network), example)


def _export(network: nn.Module, example: Tensor, dynamic_shapes: Any) -> fx.GraphModule:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        program = torch.export.export(network, (example,), strict=False, dynamic_shapes=dynamic_shapes)
        module = program.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    return module


def _exported(network: nn.Module, example: Tensor) -> Traced:
    module = _export(network, example, ({0: torch.export.Dim('batch', min=2)},))
    return Traced(module, module.graph, example)


def _exported_single(network: nn.Module, example: Tensor) -> Traced:
    module = _export(network, example[:1], None)
    return Traced(module, module.graph, example[:1], is_single=True)


def _said(error: Exception) -> str:
    """An error in one line."""
    return f'{type(error).__name__}: {(str(error).strip() or "no more is known").splitlines()[0]}'


def only_tensor(value: Any) -> Any:
    """What is in a tuple or list of one."""
    while isinstance(value, tuple | list) and len(value) == 1:
        (value,) = value
    return value


def trace(network: nn.Module, example: Tensor) -> Traced:
    """The graph of a network in evaluation mode.

    Args:
        network: Takes one tensor and returns logits (samples, classes).
        example: What it takes, with two samples or more.

    Raises:
        GraftError: If it cannot run, or neither of the two ways gives a graph that computes what it does.
    """
    with torch.no_grad():
        try:
            network(example)
        except Exception as error:
            raise GraftError(
                f'the network cannot run on an input of shape {tuple(example.shape)} ({_said(error)}); pass the size that '
                'it takes'
            ) from error
        failures = []
        for way in (_symbolic, _exported, _exported_single):
            try:
                traced = way(network, example)
                result = only_tensor(_Recorder(fx.GraphModule(traced.root, traced.graph)).run(traced.example))
                expected = only_tensor(network(traced.example))
            except GraftError:
                raise
            except Exception as error:
                failures.append(_said(error))
                continue
            if isinstance(result, Tensor) and isinstance(expected, Tensor) and torch.equal(result, expected):
                return traced
            failures.append('the graph gives other logits than the network')
    raise GraftError(f'the network cannot be traced: {"; ".join(failures)}; pass it without control flow on values, or cut it by hand')
