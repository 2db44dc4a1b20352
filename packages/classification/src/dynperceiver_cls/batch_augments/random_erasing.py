"""Random erasing of whole batches.

Shape suffixes: B batch, C channels, H height, W width, A attempts, N images with a rectangle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dynperceiver_runtime import UserError

from ..registry import MODELS

__all__ = ['RandomErasing']

NUM_ATTEMPTS = 10


@MODELS.register_module()
class RandomErasing(nn.Module):
    """Fill one rectangle of some images with noise or zeros (random erasing, arXiv 1708.04896), after the normalisation.

    A chosen image draws the rectangle's area, uniformly, and its ratio of height to width, uniformly in the logarithm, until the rectangle
    is smaller than the image in both directions, ten times at most; the place is uniform. Kornia's RandomErasing draws the ratio from
    another distribution (twice as many rectangles of ratio 2 and above as of 1/2 and below), cuts rectangles off that do not fit, and has
    no noise, so this is done here.

    The rectangles come from PyTorch's generator of the CPU, the noise from that of the images' device; nothing waits for the device.

    Args:
        prob: Probability with which an image is chosen.
        area: Smallest and largest share of the image to erase.
        ratio: Smallest and largest height divided by width.
        mode: 'pixel' fills with N(0, 1) noise, each number drawn for itself; 'const' with 0, the mean colour.

    Raises:
        UserError: For an argument outside its range.
    """

    def __init__(
        self,
        prob: float = 0.25,
        area: Sequence[float] = (0.02, 1 / 3),
        ratio: Sequence[float] = (0.3, 3.3),
        mode: str = 'pixel',
    ) -> None:
        super().__init__()
        if not 0 <= prob <= 1:
            raise UserError(f'prob={prob}: a probability from 0 to 1 is needed; the recipe has 0.25')
        if len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
            raise UserError(
                f'area={tuple(area)}: the smallest and the largest share of the image are needed, 0 < smallest <= largest <= 1'
            )
        if len(ratio) != 2 or not 0 < ratio[0] <= ratio[1] < math.inf:
            raise UserError(f'ratio={tuple(ratio)}: the smallest and the largest height / width are needed, 0 < smallest <= largest')
        if mode not in ('pixel', 'const'):
            raise UserError(f"mode={mode!r}: choose 'pixel' (noise, the recipe) or 'const' (zeros)")
        self.prob = prob
        self.area = tuple(area)
        self.ratio = tuple(ratio)
        self.mode = mode

    def draw(self, batch_size: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Rectangles for a batch, as tensors of the CPU.

        Args:
            batch_size: B.
            height: Of the images, in pixels.
            width: Of the images, in pixels.

        Returns:
            Numbers of the images with a rectangle, (N,), and their rectangles (N, 4): top, left, bottom, right in pixels, the last two
            excluded.
        """
        cpu = torch.device('cpu')
        chosen_B = torch.rand(batch_size, device=cpu) < self.prob
        uniform = torch.rand(4, batch_size, NUM_ATTEMPTS, device=cpu, dtype=torch.float64)
        pixels_BA = (self.area[0] + (self.area[1] - self.area[0]) * uniform[0]) * height * width
        log_ratio = (math.log(self.ratio[0]), math.log(self.ratio[1]))
        ratio_BA = (log_ratio[0] + (log_ratio[1] - log_ratio[0]) * uniform[1]).exp_()
        sizes_BA2 = torch.stack([(pixels_BA * ratio_BA).sqrt_(), (pixels_BA / ratio_BA).sqrt_()], -1).round_()
        limits = torch.tensor([height, width], device=cpu)
        fits_BA = (sizes_BA2 < limits).all(-1)
        first_BA2 = (limits - sizes_BA2 + 1).mul_(uniform[2:].permute(1, 2, 0)).floor_()
        boxes_BA4 = torch.cat([first_BA2, first_BA2 + sizes_BA2], -1).long()
        boxes_B4 = boxes_BA4[torch.arange(batch_size, device=cpu), fits_BA.int().argmax(1)]
        index_N = (chosen_B & fits_BA.any(1)).nonzero().flatten()
        return index_N, boxes_B4[index_N]

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Erase in a batch.

        Args:
            images_BCHW: Normalised images, float.

        Returns:
            Images of the same shape, type and memory format; the argument is left as it is.

        Raises:
            UserError: If it is no batch of float images.
        """
        if images_BCHW.ndim != 4 or not images_BCHW.is_floating_point():
            raise UserError(
                f'images of shape {tuple(images_BCHW.shape)} and type {images_BCHW.dtype}: normalised float images (B, C, H, W) are '
                'needed; put RandomErasing after the normalisation, in after_norm'
            )
        batch_size, _, height, width = images_BCHW.shape
        erased = images_BCHW.clone()
        index_N, boxes_N4 = (drawn.to(images_BCHW.device, non_blocking=True) for drawn in self.draw(batch_size, height, width))
        if not len(index_N):
            return erased
        top, left, bottom, right = boxes_N4.view(-1, 4, 1, 1).unbind(1)
        y = torch.arange(height, device=images_BCHW.device).view(-1, 1)
        x = torch.arange(width, device=images_BCHW.device)
        inside_NHW1 = ((y >= top) & (y < bottom) & (x >= left) & (x < right)).unsqueeze(-1)
        erased_BHWC = erased.permute(0, 2, 3, 1)
        old_NHWC = erased_BHWC.index_select(0, index_N)
        new_NHWC = torch.randn_like(old_NHWC) if self.mode == 'pixel' else torch.zeros_like(old_NHWC)
        erased_BHWC.index_copy_(0, index_N, torch.where(inside_NHW1, new_NHWC, old_NHWC))
        return erased

    def extra_repr(self) -> str:
        """Its settings."""
        return f'prob={self.prob}, area={self.area}, ratio={self.ratio}, mode={self.mode!r}'
