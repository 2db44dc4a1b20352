"""RandAugment of whole batches, with its own operations for every image.

Shape suffixes: B batch, C channels (3, RGB), H height, W width, S steps, N images of one operation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynperceiver_runtime import UserError

from ..registry import MODELS
from . import geometry, grey_levels

__all__ = ['MAX_MAGNITUDE', 'OPERATIONS', 'Operation', 'RandAugment']

MAX_MAGNITUDE = 10

Amount = Callable[[Tensor, Tensor, bool], Tensor]


def _none(share: Tensor, sign: Tensor, increasing: bool) -> Tensor:
    return torch.zeros_like(share)


def _signed(largest: float) -> Amount:
    def amount(share: Tensor, sign: Tensor, increasing: bool) -> Tensor:
        return sign * largest * share

    return amount


def _bits(share: Tensor, sign: Tensor, increasing: bool) -> Tensor:
    bits = (4 * share).floor()
    return 4 - bits if increasing else bits


def _threshold(share: Tensor, sign: Tensor, increasing: bool) -> Tensor:
    threshold = (256 * share).floor()
    return 256 - threshold if increasing else threshold


def _addition(share: Tensor, sign: Tensor, increasing: bool) -> Tensor:
    return (110 * share).floor().clamp(max=128)


def _factor(share: Tensor, sign: Tensor, increasing: bool) -> Tensor:
    return (1 + sign * 0.9 * share).clamp(min=0.1) if increasing else 0.1 + 1.8 * share


@dataclass(frozen=True)
class Operation:
    """One of RandAugment's operations.

    Attributes:
        apply: From images (N, C, H, W) and amounts (N,) to images; a geometric one takes fill colour and interpolation, too.
        amount: From magnitudes as shares of ``MAX_MAGNITUDE``, signs (1 or -1) and ``increasing`` to amounts in the operation's own unit.
        geometric: Whether it moves pixels.
    """

    apply: Callable[..., Tensor]
    amount: Amount
    geometric: bool = False


OPERATIONS = {
    'AutoContrast': Operation(grey_levels.auto_contrast, _none),
    'Equalize': Operation(grey_levels.equalize, _none),
    'Invert': Operation(grey_levels.invert, _none),
    'Rotate': Operation(geometry.rotate, _signed(30), geometric=True),
    'Posterize': Operation(grey_levels.posterize, _bits),
    'Solarize': Operation(grey_levels.solarize, _threshold),
    'SolarizeAdd': Operation(grey_levels.solarize_add, _addition),
    'Color': Operation(grey_levels.color, _factor),
    'Contrast': Operation(grey_levels.contrast, _factor),
    'Brightness': Operation(grey_levels.brightness, _factor),
    'Sharpness': Operation(grey_levels.sharpness, _factor),
    'ShearX': Operation(geometry.shear_x, _signed(0.3), geometric=True),
    'ShearY': Operation(geometry.shear_y, _signed(0.3), geometric=True),
    'TranslateX': Operation(geometry.translate_x, _signed(0.45), geometric=True),
    'TranslateY': Operation(geometry.translate_y, _signed(0.45), geometric=True),
}


def _take(images_BCHW: Tensor, index_N: Tensor) -> Tensor:
    return images_BCHW.permute(0, 2, 3, 1).index_select(0, index_N).permute(0, 3, 1, 2)


def _put(images_BCHW: Tensor, index_N: Tensor, changed_NCHW: Tensor) -> None:
    images_BCHW.permute(0, 2, 3, 1).index_copy_(0, index_N, changed_NCHW.permute(0, 2, 3, 1))


@MODELS.register_module()
class RandAugment(nn.Module):
    """Random operations on every image of a batch, on the batch's device (RandAugment, arXiv 1909.13719; the recipe's m9-mstd0.5-inc1).

    Every image draws ``num_ops`` operations out of the 15 of ``OPERATIONS``, uniformly and with replacement, and applies each with
    ``prob``. Each has a magnitude of its own, m ~ N(magnitude, magnitude_std) within 0 .. 10, and a sign of its own where it has a
    direction. With ``increasing`` the largest magnitude is the strongest for every operation:

    - Rotate by ±3 m degrees; ShearX, ShearY by ±0.03 m; TranslateX, TranslateY by ±0.045 m of width or height;
    - Posterize to 4 - ⌊0.4 m⌋ bits; Solarize from 256 - ⌊25.6 m⌋; SolarizeAdd ⌊11 m⌋ below 128;
    - Color, Contrast, Brightness, Sharpness by 1 ± 0.09 m, at least 0.1; AutoContrast, Equalize, Invert have no strength.

    Without it, Posterize keeps ⌊0.4 m⌋ bits, Solarize starts at ⌊25.6 m⌋, and the factors are 0.1 + 0.18 m.

    The operations are kornia's, and Pillow's to 1 grey level but for the bicubic kernel and the outermost pixels of what is moved.
    Kornia's own RandAugment is another recipe: it draws one set of operations for the whole batch, and from other ranges. What is drawn
    comes from PyTorch's generator of the CPU on every device, so that the images of one operation are known, and run as one batch,
    without waiting for the device; and a seed means the same on every device.

    Args:
        num_ops: Operations per image.
        magnitude: Mean magnitude m, 0 .. 10.
        magnitude_std: Its standard deviation, at least 0.
        prob: Probability with which a drawn operation is applied.
        increasing: Whether a larger magnitude is a stronger effect throughout.
        fill: Grey levels (R, G, B) of what comes from outside the image.
        interpolation: Of the geometric operations: 'nearest', 'bilinear' or 'bicubic'.

    Raises:
        UserError: For an argument outside its range.
    """

    fill_C: Tensor

    def __init__(
        self,
        num_ops: int = 2,
        magnitude: float = 9,
        magnitude_std: float = 0.5,
        prob: float = 0.5,
        increasing: bool = True,
        fill: Sequence[float] = (124, 116, 104),
        interpolation: str = 'bicubic',
    ) -> None:
        super().__init__()
        if num_ops < 1:
            raise UserError(f'num_ops={num_ops}: at least 1 operation is needed; leave RandAugment out to augment nothing')
        if not 0 <= magnitude <= MAX_MAGNITUDE:
            raise UserError(f'magnitude={magnitude}: a number from 0 to {MAX_MAGNITUDE} is needed; the recipe has 9')
        if not magnitude_std >= 0:
            raise UserError(f'magnitude_std={magnitude_std}: a number of at least 0 is needed; 0 gives every operation the same magnitude')
        if not 0 <= prob <= 1:
            raise UserError(f'prob={prob}: a probability from 0 to 1 is needed; the recipe has 0.5')
        if len(fill) != 3 or not all(0 <= level <= grey_levels.WHITE for level in fill):
            raise UserError(f'fill={tuple(fill)}: three grey levels (R, G, B) from 0 to 255 are needed, not numbers on the unit scale')
        if interpolation not in geometry.INTERPOLATIONS:
            raise UserError(f'interpolation={interpolation!r}: choose one of {", ".join(geometry.INTERPOLATIONS)}')
        self.num_ops = num_ops
        self.magnitude = magnitude
        self.magnitude_std = magnitude_std
        self.prob = prob
        self.increasing = increasing
        self.fill = tuple(fill)
        self.interpolation = interpolation
        self.register_buffer('fill_C', torch.tensor(fill, dtype=torch.float32), persistent=False)

    def draw(self, batch_size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What to do with a batch, as tensors of the CPU.

        Args:
            batch_size: B.

        Returns:
            Each (S, B): operations as numbers in the order of ``OPERATIONS``, whether they are applied, magnitudes, signs (1 or -1).
        """
        shape, cpu = (self.num_ops, batch_size), torch.device('cpu')
        operations = torch.randint(len(OPERATIONS), shape, device=cpu)
        applied = torch.rand(shape, device=cpu) < self.prob
        magnitudes = torch.randn(shape, device=cpu, dtype=torch.float64) * self.magnitude_std + self.magnitude
        signs = torch.randint(2, shape, device=cpu) * 2 - 1
        return operations, applied, magnitudes.clamp_(0, MAX_MAGNITUDE), signs

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Augment a batch.

        Args:
            images_BCHW: RGB images, float, grey levels 0 .. 255; others than whole ones are rounded, as 8 bit images are.

        Returns:
            Images of the same shape, type and memory format; the argument is left as it is.

        Raises:
            UserError: If it is no batch of float RGB images.
        """
        if images_BCHW.ndim != 4 or images_BCHW.shape[1] != 3 or not images_BCHW.is_floating_point():
            raise UserError(
                f'images of shape {tuple(images_BCHW.shape)} and type {images_BCHW.dtype}: float RGB images (B, 3, H, W) with grey levels '
                '0 .. 255 are needed; put RandAugment before the normalisation, in before_norm'
            )
        memory_format = torch.channels_last if images_BCHW.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        augmented = images_BCHW.clone(memory_format=torch.channels_last).round_().clamp_(0, grey_levels.WHITE)
        for operations_B, applied_B, magnitudes_B, signs_B in zip(*self.draw(len(images_BCHW)), strict=True):
            self._step(augmented, operations_B, applied_B, magnitudes_B, signs_B)
        return augmented.contiguous(memory_format=memory_format)

    def _step(self, images_BCHW: Tensor, operations_B: Tensor, applied_B: Tensor, magnitudes_B: Tensor, signs_B: Tensor) -> None:
        """Apply one operation per image, in place: all images of an operation at once."""
        device = images_BCHW.device
        groups_B = operations_B.masked_fill(~applied_B, len(OPERATIONS))
        counts = torch.bincount(groups_B, minlength=len(OPERATIONS) + 1)[: len(OPERATIONS)].tolist()
        order_N = groups_B.argsort(stable=True)[: sum(counts)]
        shares, signs = (magnitudes_B / MAX_MAGNITUDE)[order_N].split(counts), signs_B[order_N].split(counts)
        amounts = [
            operation.amount(share_N, sign_N, self.increasing)
            for operation, share_N, sign_N in zip(OPERATIONS.values(), shares, signs, strict=True)
        ]
        # One copy each to the device, of what stands in the order of the operations.
        indices = order_N.to(device, non_blocking=True).split(counts)
        amounts_on_device = torch.cat(amounts).to(device, non_blocking=True).split(counts)
        placement = (self.fill_C.to(device, non_blocking=True), self.interpolation)
        for operation, index_N, amounts_N in zip(OPERATIONS.values(), indices, amounts_on_device, strict=True):
            if len(index_N):
                changed = operation.apply(_take(images_BCHW, index_N), amounts_N, *(placement if operation.geometric else ()))
                _put(images_BCHW, index_N, changed)

    def extra_repr(self) -> str:
        """Its settings."""
        return (
            f'num_ops={self.num_ops}, magnitude={self.magnitude}, magnitude_std={self.magnitude_std}, prob={self.prob}, '
            f'increasing={self.increasing}, fill={self.fill}, interpolation={self.interpolation!r}'
        )
