"""Every kind of detector in configs/detection on a narrow Dyn-Perceiver: gradients, bfloat16, and less memory alike."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from mmengine.registry import MODELS
from silent_parameters import silent_parameters
from tiny_detection import families, load_batch, make_photos, narrow_model
from torch import Tensor, nn

import dynperceiver_det  # noqa: F401  registers what configs name

FAMILIES = families()

each_family = pytest.mark.parametrize('family', FAMILIES)


@pytest.fixture(scope='module')
def batches(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, dict[str, Any]]:
    """Four photos, without and with masks."""
    data = make_photos(tmp_path_factory.mktemp('photos') / 'data', num_train=4, num_val=1)
    return {with_mask: load_batch(data, with_mask=with_mask) for with_mask in (False, True)}


@pytest.fixture
def loss_of(batches: dict[bool, dict[str, Any]]) -> Callable[[nn.Module], Tensor]:
    """Function that gives a detector's loss on the four photos, from the same random numbers every time."""

    def loss_of(model: nn.Module) -> Tensor:
        torch.manual_seed(1)
        batch = model.data_preprocessor(batches[model.with_mask], training=True)
        loss, _ = model.parse_losses(model(**batch, mode='loss'))
        return loss

    return loss_of


def build(family: str, **backbone: Any) -> nn.Module:
    """The family's narrowed detector in training mode, with the same random weights every time."""
    torch.manual_seed(0)
    model: nn.Module = MODELS.build(narrow_model(FAMILIES[family], **backbone))
    model.init_weights()
    return model.train()


def keep_proposals(model: nn.Module) -> nn.Module:
    """Let a detector's second stage, if it has one, get the proposals of the first call in all calls."""
    if hasattr(model, 'roi_head'):
        propose, proposals = model.rpn_head.loss_and_predict, []

        def propose_the_same(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
            losses, results = propose(*args, **kwargs)
            proposals.append(results)
            return losses, copy.deepcopy(proposals[0])

        model.rpn_head.loss_and_predict = propose_the_same
    return model


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    """Gradient of every parameter that learns."""
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}


def kept_bytes(compute: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """Result of a computation, and the size of what it keeps for the backward pass, storage by storage."""
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = compute()
    return result, sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_each_family_is_one_detector() -> None:
    assert {'retinanet', 'faster-rcnn', 'mask-rcnn', 'deformable-detr'} <= set(FAMILIES)
    for family in FAMILIES:
        assert type(build(family)).__name__.lower() == family.replace('-', '')


@each_family
def test_steps_along_the_gradient_change_the_loss_by_its_squared_norm(family: str, loss_of: Callable[[nn.Module], Tensor]) -> None:
    """So nothing that is computed is cut off from the gradient; a second stage keeps its proposals, which count as given.

    Steps of a ten thousandth of the loss, of which rounding to float32 makes about a hundredth, and curvature a thirtieth.
    """
    model = keep_proposals(build(family))
    loss = loss_of(model)
    loss.backward()
    learning = [(parameter, parameter.detach().clone()) for parameter in model.parameters() if parameter.requires_grad]
    squared_norm = sum(float(parameter.grad.double().square().sum()) for parameter, _ in learning)
    step = 1e-4 * float(loss.detach()) / squared_norm
    losses = []
    with torch.no_grad():
        for sign in (1, -1):
            for parameter, start in learning:
                parameter.copy_(start + sign * step * parameter.grad)
            losses.append(float(loss_of(model)))
    assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(squared_norm, rel=0.1)


@each_family
@pytest.mark.parametrize('frozen_stages', [-1, 1])
def test_every_parameter_that_learns_gets_a_gradient(family: str, frozen_stages: int, loss_of: Callable[[nn.Module], Tensor]) -> None:
    """So that distributed training needs no ``find_unused_parameters``; nothing in the backbone is cut off by zeros either."""
    model = build(family, frozen_stages=frozen_stages)
    loss_of(model).backward()
    found = gradients(model)
    assert not [name for name, gradient in found.items() if gradient is None or not gradient.isfinite().all()]
    without = {name for name, gradient in found.items() if name.startswith('backbone.') and not gradient.any()}
    assert without <= silent_parameters(model)
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert bool(frozen) == (frozen_stages >= 0)
    assert all(name.startswith('backbone.') for name in frozen)


@each_family
def test_bfloat16_gives_the_same_loss(family: str, loss_of: Callable[[nn.Module], Tensor]) -> None:
    """Within 1 %, heads included; a second stage gets the same proposals, of which rounded scores of an untrained network choose others."""
    model = keep_proposals(build(family))
    expected = float(loss_of(model).detach())
    dtypes = []
    model.backbone.register_forward_hook(lambda _, inputs, maps: dtypes.extend(map_BCHW.dtype for map_BCHW in maps))
    with torch.autocast('cpu', torch.bfloat16):
        loss = loss_of(model)
    loss.backward()
    assert set(dtypes) == {torch.bfloat16}
    assert float(loss.detach()) == pytest.approx(expected, rel=0.01)
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients(model).values())


@pytest.mark.parametrize(('family', 'frozen_stages'), [*((family, -1) for family in FAMILIES), ('retinanet', 1)])
def test_activation_checkpointing_keeps_less_and_computes_the_same(
    family: str, frozen_stages: int, loss_of: Callable[[nn.Module], Tensor]
) -> None:
    """Weights, which are kept either way, are in both sums; the heads', which are not recomputed, too."""
    plain, saving = (build(family, frozen_stages=frozen_stages, with_cp=with_cp) for with_cp in (False, True))
    loss, num_bytes = kept_bytes(lambda: loss_of(plain))
    same_loss, fewer_bytes = kept_bytes(lambda: loss_of(saving))
    assert float(same_loss.detach()) == pytest.approx(float(loss.detach()), rel=1e-6)
    assert fewer_bytes < 0.7 * num_bytes
    loss.backward()
    same_loss.backward()
    torch.testing.assert_close(gradients(saving), gradients(plain), rtol=1e-4, atol=1e-6)
    for (name, buffer), expected in zip(saving.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(buffer, expected, msg=name)  # running statistics count the batch once
