"""BatchNorm goes into the convolution or Linear beside it, where a run of the network shows that this changes nothing.

What stands beside what is seen while the network runs, and not read from the order in which layers were declared: a BatchNorm is folded
into a layer if it gets that layer's very output (or the layer gets its output), nothing else reads it, both run once, and the layer's
weights are nobody else's. Any other BatchNorm stays what it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from ..models import Segment

__all__ = ['fold_batch_norms']

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


class _Trace(TorchDispatchMode):
    """Sees every operator that runs, and which module it runs in."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.calls: dict[nn.Module, list[_Call]] = defaultdict(list)
        self.weight_reads: dict[int, list[tuple[_Call | None, str]]] = defaultdict(list)
        self._weights = {id(tensor) for tensor in (*network.parameters(), *network.buffers())}
        self._made: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._running: list[_Call] = []
        self._network = network

    def run(self, images_BCHW: Tensor) -> _Trace:
        """Run the network; it must be a copy, of which no module has hooks."""
        handles = [
            handle
            for module in self._network.modules()
            for handle in (module.register_forward_pre_hook(self._begin), module.register_forward_hook(self._end))
        ]
        try:
            with torch.inference_mode(False), torch.no_grad(), self:
                outputs = self._network(images_BCHW)
            self._read(outputs, None)
        finally:
            for handle in handles:
                handle.remove()
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        call = self._running[-1] if self._running else None
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor):
                self._read(value, call)
                if id(value) in self._weights:
                    self.weight_reads[id(value)].append((call, func._schema.name))
        return func(*args, **(kwargs or {}))

    def _read(self, value: Any, call: _Call | None) -> None:
        for tensor in tree_leaves(value):
            if isinstance(tensor, Tensor) and tensor in self._made:
                self._made[tensor].readers.append(call)

    def _begin(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        call = _Call(module)
        if args and isinstance(args[0], Tensor):
            call.source = self._made.get(args[0])
        self.calls[module].append(call)
        self._running.append(call)

    def _end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        call = self._running.pop()
        if isinstance(module, Layer | _BatchNorm) and isinstance(output, Tensor):
            call.rank = output.dim()
            self._made[output] = call
        elif isinstance(module, Segment):
            logits_SK, state = output
            self._read((logits_SK, *vars(state).values()), None)

    def only_call(self, module: nn.Module) -> _Call | None:
        """The call of a module that ran once, and whose weights nothing else read."""
        if len(self.calls[module]) != 1:
            return None
        (call,) = self.calls[module]
        tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        return call if all(reader is call for tensor in tensors for reader, _ in self.weight_reads[id(tensor)]) else None

    def layer_call(self, module: nn.Module) -> _Call | None:
        """The call of a convolution or Linear that computes with its weight and bias and nothing else."""
        weight = module._parameters.get('weight')
        if not isinstance(module, Layer) or not _runs(module, LAYER_FORWARDS) or weight is None or not weight.is_floating_point():
            return None
        operators = [name for _, name in self.weight_reads[id(weight)]]
        if isinstance(module, _ConvNd) and not (len(operators) == 1 and 'conv' in operators[0]):
            return None
        call = self.only_call(module)
        return call if call is not None and call.rank == weight.dim() else None


def fold_batch_norms(network: nn.Module, images_BCHW: Tensor) -> set[str]:
    """Fold, in place, every BatchNorm that can be folded into the layer that stands before it, or into the one after it.

    Args:
        network: A copy in evaluation mode, of which no module has hooks.
        images_BCHW: Images to run it on; two samples or more, since a norm may need the statistics of a batch.

    Returns:
        Names of the layers whose outputs are others now: layers that do the work of a norm after them, and norms before their layers.
    """
    trace = _Trace(network).run(images_BCHW)
    # All places are found before any weight is changed, since weights are told apart by what read them.
    places = {norm: place for norm in trace.calls if isinstance(norm, _BatchNorm) and (place := _find_place(norm, trace)) is not None}
    changed = {layer if is_before else norm for norm, (layer, is_before) in places.items()}
    names = {name for name, module in network.named_modules(remove_duplicate=False) if module in changed}
    for norm, (layer, is_before) in places.items():
        (_scale_outputs if is_before else _scale_inputs)(layer, *_scale_and_shift(norm))
    for parent in list(network.modules()):
        for name, child in parent._modules.items():
            if child in places:
                parent._modules[name] = nn.Identity()
    return names


def _scale_and_shift(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None
    scale_C = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale_C = scale_C * norm.weight
    shift_C = -norm.running_mean * scale_C
    return scale_C, shift_C if norm.bias is None else shift_C + norm.bias


def _find_place(norm: _BatchNorm, trace: _Trace) -> tuple[nn.Module, bool] | None:
    """The layer that a norm can be folded into, and whether it stands before the norm; ``None`` where there is none."""
    if not _runs(norm, NORM_FORWARDS) or norm.training or norm.running_mean is None or norm.running_var is None:
        return None
    call = trace.only_call(norm)
    if call is None:
        return None
    before = call.source
    if before is not None and trace.layer_call(before.module) is before and _all_are(before.readers, call):
        return before.module, True
    after = call.readers[0] if call.readers else None
    if after is None or after.source is not call or not _all_are(call.readers, after):
        return None
    layer = after.module
    if trace.layer_call(layer) is not after or layer.weight.dim() != call.rank or _pads_with_zeros(layer):  # type: ignore[operator]
        return None
    return layer, False


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
