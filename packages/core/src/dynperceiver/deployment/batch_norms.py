"""BatchNorm goes into the convolution or Linear beside it, where a run of the network shows that this changes nothing.

What stands beside what is seen while the network runs, and not read from the order in which layers were declared: a BatchNorm is folded
into a layer if it gets that layer's very output (or the layer gets its output), nothing else reads it, both run once, and the layer's
weights are nobody else's. Any other BatchNorm stays what it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from ..models import Segment

__all__ = ['NormPlace', 'Trace', 'fold_batch_norms']

Layer = _ConvNd | nn.Linear
NORM_FORWARDS = (_BatchNorm.forward, nn.SyncBatchNorm.forward)
LAYER_FORWARDS = (
    *(kind.forward for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)),
    *(kind.forward for kind in (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)),
)
PLAIN_CONVOLUTIONS = tuple(kind._conv_forward for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d))


def _runs(module: nn.Module, forwards: tuple[Callable[..., Any], ...]) -> bool:
    """Whether a module runs one of these ``forward``; a subclass may have another, and so may a single module."""
    return type(module).forward in forwards and 'forward' not in vars(module)


@dataclass(frozen=True)
class NormPlace:
    """Where a BatchNorm can be folded.

    Attributes:
        norm: Name of the norm in the network.
        layer: Name of the convolution or Linear that takes it in.
        is_after: Whether the norm follows the layer; otherwise the layer follows the norm.
    """

    norm: str
    layer: str
    is_after: bool


@dataclass(eq=False)
class _Call:
    """A module ran.

    Attributes:
        module: The module.
        source: The call whose output it got, if that was a norm's or a layer's.
        rank: Dimensions of its output.
        readers: For everything that read its output, the innermost call in which it was read; ``None`` for what reads a state.
    """

    module: nn.Module
    source: _Call | None = None
    rank: int = 0
    readers: list[_Call | None] = field(default_factory=list)


class Trace(TorchDispatchMode):
    """Sees every operator that a network runs within this context, and which module it runs in.

    Args:
        network: A copy in evaluation mode, of which no module has hooks; it must run once.

    Attributes:
        epsilon: Rounding of the coarsest floating-point type that an operator computed in.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.epsilon = 0.0
        self._network = network
        self._calls: dict[nn.Module, list[_Call]] = defaultdict(list)
        self._weights = {id(tensor) for tensor in (*network.parameters(), *network.buffers())}
        self._weight_reads: dict[int, list[tuple[_Call | None, str]]] = defaultdict(list)
        self._made: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._running: list[_Call] = []
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> Trace:
        for module in self._network.modules():
            self._hooks += [module.register_forward_pre_hook(self._begin), module.register_forward_hook(self._end)]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for hook in self._hooks:
            hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        call = self._running[-1] if self._running else None
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor):
                self._read(value, call)
                if id(value) in self._weights:
                    self._weight_reads[id(value)].append((call, func._schema.name))
        outputs = func(*args, **(kwargs or {}))
        for value in tree_leaves(outputs):
            if isinstance(value, Tensor) and value.is_floating_point():
                self.epsilon = max(self.epsilon, torch.finfo(value.dtype).eps)
        return outputs

    def _read(self, value: Any, call: _Call | None) -> None:
        for tensor in tree_leaves(value):
            if isinstance(tensor, Tensor) and tensor in self._made:
                self._made[tensor].readers.append(call)

    def _begin(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        call = _Call(module)
        if args and isinstance(args[0], Tensor):
            call.source = self._made.get(args[0])
        self._calls[module].append(call)
        self._running.append(call)

    def _end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        call = self._running.pop()
        if isinstance(module, Layer | _BatchNorm) and isinstance(output, Tensor):
            call.rank = output.dim()
            self._made[output] = call
        elif isinstance(module, Segment):
            logits_SK, state = output
            self._read((logits_SK, *vars(state).values()), None)
        elif module is self._network:
            self._read(output, None)

    def _only_call(self, module: nn.Module) -> _Call | None:
        """The call of a module that ran once, and whose weights nothing else read."""
        if len(self._calls[module]) != 1:
            return None
        (call,) = self._calls[module]
        tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        return call if all(reader is call for tensor in tensors for reader, _ in self._weight_reads[id(tensor)]) else None

    def _layer_call(self, module: nn.Module) -> _Call | None:
        """The call of a convolution or Linear that computes with its weight and bias and nothing else."""
        weight = module._parameters.get('weight')
        if not isinstance(module, Layer) or not _runs(module, LAYER_FORWARDS) or weight is None or not weight.is_floating_point():
            return None
        operators = [name for _, name in self._weight_reads[id(weight)]]
        if isinstance(module, _ConvNd) and not (len(operators) == 1 and 'conv' in operators[0]):
            return None
        call = self._only_call(module)
        return call if call is not None and call.rank == weight.dim() else None

    def places(self) -> list[NormPlace]:
        """The norms that can be folded into the layer before them or, failing that, into the one after them."""
        names = {module: name for name, module in reversed(list(self._network.named_modules()))}
        found = [(norm, self._place(norm)) for norm in self._calls if isinstance(norm, _BatchNorm)]
        return [NormPlace(names[norm], names[place[0]], place[1]) for norm, place in found if place is not None]

    def _place(self, norm: _BatchNorm) -> tuple[nn.Module, bool] | None:
        if not _runs(norm, NORM_FORWARDS) or norm.training or norm.running_mean is None or norm.running_var is None:
            return None
        call = self._only_call(norm)
        if call is None:
            return None
        before = call.source
        if before is not None and self._layer_call(before.module) is before and _all_are(before.readers, call):
            return before.module, True
        after = call.readers[0] if call.readers else None
        if after is None or after.source is not call or not _all_are(call.readers, after) or self._layer_call(after.module) is not after:
            return None
        layer: Any = after.module
        return None if layer.weight.dim() != call.rank or _pads_with_zeros(layer) else (layer, False)


def fold_batch_norms(network: nn.Module, places: Iterable[NormPlace]) -> set[str]:
    """Fold norms in place.

    Args:
        network: A copy in evaluation mode.
        places: See :meth:`Trace.places`.

    Returns:
        Names of the layers whose outputs are others now: layers that do the work of a norm after them, and norms before their layers.
    """
    norms: set[nn.Module] = set()
    changed: set[str] = set()
    for place in places:
        norm, layer = network.get_submodule(place.norm), network.get_submodule(place.layer)
        assert isinstance(norm, _BatchNorm)
        (_scale_outputs if place.is_after else _scale_inputs)(layer, *_scale_and_shift(norm))
        changed.add(place.layer if place.is_after else place.norm)
        norms.add(norm)
    for parent in list(network.modules()):
        for name, child in parent._modules.items():
            if child in norms:
                parent._modules[name] = nn.Identity()
    return changed


def _scale_and_shift(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None
    scale_C = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale_C = scale_C * norm.weight
    shift_C = -norm.running_mean * scale_C
    return scale_C, shift_C if norm.bias is None else shift_C + norm.bias


def _all_are(readers: list[_Call | None], call: _Call) -> bool:
    return all(reader is call for reader in readers)


def _pads_with_zeros(layer: nn.Module) -> bool:
    """Whether a layer mixes zeros with what comes in; to these, what a norm adds to all pixels is not added."""
    if isinstance(layer, nn.Linear):
        return False
    if not isinstance(layer, _ConvNd) or type(layer)._conv_forward not in PLAIN_CONVOLUTIONS:
        return True
    is_padded = any(layer.padding) if not isinstance(layer.padding, str) else layer.padding == 'same' and max(layer.kernel_size) > 1
    return is_padded and layer.padding_mode == 'zeros'


def _set_weights(layer: Any, weight: Tensor, bias: Tensor) -> None:
    layer.weight = nn.Parameter(weight.to(layer.weight.dtype), requires_grad=False)
    layer.bias = nn.Parameter(bias.to(weight.dtype), requires_grad=False)


def _groups(layer: Any) -> int:
    return layer.groups if isinstance(layer, _ConvNd) else 1


def _scale_outputs(layer: Any, scale_C: Tensor, shift_C: Tensor) -> None:
    """Have a layer give ``scale * output + shift``, for each of its output channels."""
    weight, kernel = layer.weight, layer.weight.shape[2:]
    if isinstance(layer, _ConvTransposeNd):  # (inputs, outputs of a group, kernel), the inputs group by group
        grouped = weight.view(layer.groups, -1, *weight.shape[1:])
        scaled = (grouped * scale_C.view(layer.groups, 1, -1, *(1 for _ in kernel))).view_as(weight)
    else:
        scaled = weight * scale_C.view(-1, *(1 for _ in weight.shape[1:]))
    _set_weights(layer, scaled, shift_C if layer.bias is None else layer.bias * scale_C + shift_C)


def _scale_inputs(layer: Any, scale_C: Tensor, shift_C: Tensor) -> None:
    """Have a layer work on ``scale * input + shift``, for each of its input channels."""
    weight, groups = layer.weight, _groups(layer)
    grouped = weight.view(groups, -1, weight.shape[1], weight.shape[2:].numel())  # groups, outputs, inputs of a group, pixels
    added = (grouped.sum(3) * shift_C.view(groups, 1, -1)).sum(2).flatten()
    scaled = (grouped * scale_C.view(groups, 1, -1, 1)).view_as(weight)
    _set_weights(layer, scaled, added if layer.bias is None else layer.bias + added)
