"""Where a network can be cut: the points at which one tensor alone crosses; and the network cut there, as a feature branch.

Shape suffixes: B samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..feature_branches import FeatureBranch
from ..layers import MapLayout
from .tracing import GraftError, Traced, module_path, only_tensor, trace

__all__ = [
    'Cut',
    'CutNetwork',
    'OwnAnswer',
    'cut_layout',
    'cut_network',
    'cut_nodes',
    'find_cuts',
]


@dataclass(frozen=True)
class Cut:
    """A point where one tensor alone crosses.

    Attributes:
        name: Name of the module that ends there.
        shape: Shape of the tensor for one sample.
        position: Place of its operator in the graph.
    """

    name: str
    shape: tuple[int, ...]
    position: int


class OwnAnswer(nn.Module):
    """The last exit of a network that was cut: its last part gives logits already."""

    reads = ('feature_BCHW',)
    hands_on = False

    def forward(self, logits_BK: Tensor) -> Tensor:
        """The logits as they are."""
        return logits_BK


class OneByOne(nn.Module):
    """A part that takes a single sample: a batch goes through it one by one.

    Args:
        part: The part.
    """

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, samples: Tensor) -> Tensor:
        """What the part gives for each sample (B, ...), as a batch.

        Raises:
            GraftError: While exporting, since a graph takes any number of samples.
        """
        if torch.compiler.is_exporting():
            raise GraftError(
                'this network computes with its batch size in Python, so that it runs on one sample at a time and has no graph for '
                'batches; serve it with PyTorch'
            )
        return torch.cat([self.part(sample) for sample in samples.split(1)])


class CutNetwork(FeatureBranch):
    """A network of any make as a feature branch: the stem ends at the first cut, each stage at the next, and the last in the logits.

    Args:
        parts: The stem and the stages.
        channels: Channels of the tensor at each cut, and classes.
        strides: Strides of these tensors against the image.
        layouts: Orders of the axes of the tensors at the cuts.
        cuts: Names of the cuts.
        input_dims: Axes of the input: 4 for images, 5 for clips.
    """

    computes_shapes = True

    def __init__(
        self,
        parts: Sequence[nn.Module],
        channels: Sequence[int],
        strides: Sequence[int],
        layouts: Sequence[MapLayout],
        cuts: Sequence[str],
        input_dims: int = 4,
    ) -> None:
        super().__init__(parts[0], parts[1:], channels, strides)
        self.layouts = (*layouts, MapLayout('BC'))
        self.cuts = tuple(cuts)
        self.input_dims = input_dims
        self.own_exit = OwnAnswer()

    def lay_out(self, images_BCHW: Tensor) -> Tensor:
        """Images as they are: in another layout the network would round otherwise."""
        return images_BCHW


def _crossings(traced: Traced) -> Iterator[tuple[fx.Node, list[fx.Node]]]:
    """Each operator on the way from input to output, with the other nodes that depend on the input and are read behind it."""
    last_use = {node: max((traced.index.get(user, len(traced.nodes)) for user in node.users), default=-1) for node in traced.nodes}
    alive: set[fx.Node] = set()
    for number, node in enumerate(traced.nodes):
        if node not in traced.dependent:
            continue
        alive = {other for other in alive if last_use[other] > number}
        yield node, sorted(alive, key=traced.index.__getitem__)
        if last_use[node] > number:
            alive.add(node)


def _is_read(node: fx.Node) -> bool:
    """Whether a number is read from a tensor or its shape, and not computed from other numbers."""
    return any(source.meta.get('gives_tensor') or source.meta.get('value') is None for source in node.all_input_nodes)


def _is_of_batch(node: fx.Node, batch: int) -> bool:
    """Whether it is the number of samples, or computed from it alone."""
    if node.meta.get('gives_tensor') or node.meta.get('value') is None:
        return False
    if _is_read(node):
        return bool(node.meta['value'] == batch)
    return all(source.meta['is_constant'] or _is_of_batch(source, batch) for source in node.all_input_nodes)


def _ends(traced: Traced) -> dict[str, int]:
    """Module to the place of the last operator within it."""
    return {name: number for number, node in enumerate(traced.nodes) if node in traced.dependent for name in module_path(node)}


def _name(node: fx.Node) -> str:
    """Name of a node's operator, without that of its overload."""
    name = getattr(node.target, '__name__', str(node.target))
    return name if node.op in ('call_module', 'get_attr', 'placeholder') else str(name).split('.')[0]


def _is_overwritten(node: fx.Node, root: nn.Module) -> bool:
    """Whether what reads a tensor writes into it."""
    for user in node.users:
        module = root.get_submodule(str(user.target)) if user.op == 'call_module' else None
        name = _name(user)
        in_place = getattr(module, 'inplace', False) or user.kwargs.get('inplace', False) or name in ('iadd', 'imul', 'isub')
        if in_place or (name.endswith('_') and not name.endswith('__')):
            return True
    return False


def cut_nodes(traced: Traced) -> dict[str, fx.Node]:
    """Name of each point where one tensor alone crosses, to the operator that gives it."""
    batch = len(traced.example)
    ends, found = _ends(traced), {}
    for node, others in _crossings(traced):
        shape: Any = node.meta.get('value')
        if node in (traced.input, traced.output) or not node.meta.get('gives_tensor') or len(shape) not in (3, 4, 5):
            continue
        if shape[0] != batch or _is_overwritten(node, traced.root) or not all(_is_of_batch(other, batch) for other in others):
            continue
        # The outermost module that ends here gives the point its name; one in the middle of a module has none.
        name = next((name for name in module_path(node) if ends[name] == traced.index[node]), None)
        if name is not None:
            found[name] = node
    return found


def find_cuts(network: nn.Module, example: Tensor) -> list[Cut]:
    """All points where a network can be cut, in their order.

    Args:
        network: Takes one tensor and returns logits (samples, classes); in evaluation mode.
        example: What it takes, with two samples or more.

    Raises:
        GraftError: If it cannot be traced.
    """
    traced = trace(network, example)
    return [Cut(name, node.meta['value'][1:], traced.index[node]) for name, node in cut_nodes(traced).items()]


def _why_no_cut(traced: Traced, name: str) -> str:
    ends, batch = _ends(traced), len(traced.example)
    if name in ends:
        position = ends[name]
        others = next((others for node, others in _crossings(traced) if traced.index[node] == position), [])
        crossing = [other for other in others if not _is_of_batch(other, batch)]
        if crossing:
            places = ', '.join((module_path(other) or (other.name,))[-1] for other in crossing[:3])
            return f'{len(crossing) + 1} tensors cross it: besides its own output that of {places}, read behind it'
        return 'its output is overwritten by what follows, or has no shape (samples, ...) of 3 to 5 axes'
    return 'the network has no such module that runs'


def _near(name: str, found: Sequence[str]) -> str:
    near = get_close_matches(name, found, n=3)
    inner = [other for other in found if other.startswith(f'{name}.')]
    return ', '.join(dict.fromkeys([*near, *inner[:3], *[other for other in found if '.' not in other][:6]])) or ', '.join(found[:8])


def cut_layout(node: fx.Node, traced: Traced) -> MapLayout:
    """Order of the axes of a tensor: from their number, from which two go with the sides of the image, and where that leaves doubt from
    what reads it."""
    shape = node.meta['value'][1:]
    if len(shape) == 2:
        return MapLayout('BMC')
    first, last = (MapLayout(axes) for axes in (('BCHW', 'BHWC') if len(shape) == 3 else ('BCTHW', 'BTHWC')))
    height, width = traced.example.shape[-2:]
    fits = [abs(shape[at] / shape[at + 1] * width / height - 1) < 0.3 for at in (len(shape) - 2, len(shape) - 3)]
    if fits[0] != fits[1]:
        return first if fits[0] else last
    for user in node.users:
        module = traced.root.get_submodule(str(user.target)) if user.op == 'call_module' else None
        if isinstance(module, nn.LayerNorm | nn.Linear) or _name(user) in ('layer_norm', 'linear'):
            return last
    return first


def _strides(shape: Sequence[int], layout: MapLayout, example: Tensor) -> int:
    sides = {letter: side for letter, side in zip(layout.axes[1:], shape, strict=True)}
    height, width = example.shape[-2:]
    # Tokens of a picture are at a stride, too, as far as their number tells.
    stride = height / sides['H'] if 'H' in sides else (height * width / sides['M']) ** 0.5 if 'M' in sides else 1
    return max(1, round(stride))


class _Splitter:
    """Copies the operators between two cuts into a graph of their own."""

    def __init__(self, traced: Traced, start: fx.Node) -> None:
        self.traced, self.start = traced, start
        self.graph = fx.Graph()
        self.copies: dict[fx.Node, Any] = {start: self.graph.placeholder('x')}

    def _is_earlier(self, node: fx.Node) -> bool:
        """Whether it depends on what was before the cut; only the number of samples may."""
        return node in self.traced.dependent and self.traced.index[node] < self.traced.index[self.start]

    def _copy(self, node: fx.Node) -> Any:
        if self._is_earlier(node) and _is_read(node):
            return self.graph.call_method('size', (self.copies[self.start], 0))
        if not node.meta['is_constant']:
            return self.graph.node_copy(node, self.copies.__getitem__)
        value = node.meta['result']
        if not isinstance(value, Tensor):
            return value
        name = f'constant_{self.traced.index[node]}'
        self.traced.root.register_buffer(name, value.clone(), persistent=False)
        return self.graph.get_attr(name)

    def until(self, end: fx.Node) -> fx.GraphModule:
        wanted = self._needed(end)
        for node in self.traced.nodes:  # in the graph's order, since operators in place must keep theirs
            if node in wanted and node not in self.copies:
                self.copies[node] = self._copy(node)
        self.graph.output(self.copies[end])
        self.graph.lint()
        return fx.GraphModule(self.traced.root, self.graph)

    def _needed(self, end: fx.Node) -> set[fx.Node]:
        first, last = self.traced.index[self.start], self.traced.index[end]
        # What writes in place may have no user of its own result.
        between = [node for node in self.traced.nodes[first + 1 : last] if node in self.traced.dependent and not node.users]
        waiting = [end, *(node for node in between if _name(node).endswith('_'))]
        needed = {self.start, *waiting}
        while waiting:
            node = waiting.pop()
            is_given = node is self.start or (self._is_earlier(node) and _is_read(node)) or node.meta['is_constant']
            for source in [] if is_given else node.all_input_nodes:
                if source not in needed:
                    needed.add(source)
                    waiting.append(source)
        return needed


def cut_network(network: nn.Module, example: Tensor, cuts: Sequence[str]) -> CutNetwork:
    """A network cut at named points.

    The parts, run one after another, give what the network gives, to the last bit; that is checked. The weights are the network's own.

    Args:
        network: Takes one tensor and returns logits (samples, classes).
        example: What it takes, with two samples or more.
        cuts: Names of modules after which to cut, in any order; see :func:`find_cuts`.

    Raises:
        GraftError: If a point does not exist or more than one tensor crosses it, or the network cannot be traced.
    """
    network = network.eval() or network  # OpenMMLab's backbones return nothing there
    traced = trace(network, example)
    nodes = cut_nodes(traced)
    for name in cuts:
        if name not in nodes:
            reason = _why_no_cut(traced, name)
            raise GraftError(f'cut {name!r}: {reason}; cuts that can be made are {_near(name, list(nodes))}')
    if not cuts:
        raise GraftError(f'no cut was given; choose among {", ".join(nodes) or "none: no point is crossed by one tensor alone"}')
    chosen = sorted({nodes[name]: name for name in cuts}.items(), key=lambda item: traced.index[item[0]])
    ends = [node for node, _ in chosen] + [traced.output]
    starts = [traced.input, *ends[:-1]]
    parts: list[nn.Module] = [_Splitter(traced, start).until(end) for start, end in zip(starts, ends, strict=True)]
    if traced.is_single:
        parts = [OneByOne(part) for part in parts]
    shapes = [node.meta['value'][1:] for node in ends]
    if len(shapes[-1]) != 1:
        raise GraftError(f'the network returns {shapes[-1]} numbers per sample, but logits, one per class, are expected; wrap it')
    layouts = [cut_layout(node, traced) for node in ends[:-1]]
    channels = [shape[layout.axes.index('C') - 1] for shape, layout in zip(shapes, layouts, strict=False)] + [shapes[-1][0]]
    strides = [_strides(shape, layout, example) for shape, layout in zip(shapes, layouts, strict=False)]
    branch = CutNetwork(parts, channels, [*strides, strides[-1]], layouts, [name for _, name in chosen], example.dim())
    _check_parts(branch.eval(), network, traced.example)
    return branch


def _check_parts(branch: CutNetwork, network: nn.Module, example: Tensor) -> None:
    """Check that the parts give what the network gives, with another number of samples, too, since parts may take it for a constant."""
    examples = [example] if len(example) == 1 else [example, torch.cat((example, example[:1]))]
    for samples in examples:
        _check_parts_on(branch, network, samples)


@torch.no_grad()
def _check_parts_on(branch: CutNetwork, network: nn.Module, samples: Tensor) -> None:
    value, names = branch.stem(samples), [*branch.cuts, 'its logits']
    for number, stage in enumerate(branch.stages):
        kept, before = value.clone(), value
        value = stage(value)
        if not torch.equal(kept, before):
            raise GraftError(f'cut {names[number]!r}: what follows it writes into its tensor; cut after the module that does')
    if not torch.equal(value, only_tensor(network(samples))):
        raise GraftError('the parts of the network give other logits than the network; it cannot be cut there')
