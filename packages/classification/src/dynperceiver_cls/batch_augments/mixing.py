"""Mixup and cutmix of whole batches.

Shape suffixes: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dynperceiver_runtime import UserError

from ..registry import MODELS

__all__ = ['MixupCutmix']


@MODELS.register_module()
class MixupCutmix(nn.Module):
    r"""Mix a batch with itself in reverse order by mixup (arXiv 1710.09412) or cutmix (arXiv 1905.04899), and smooth the labels.

    One of the two is drawn for a batch, and one :math:`\lambda \sim Beta(\alpha, \alpha)`: mixup gives
    :math:`\lambda x + (1 - \lambda) x'`; cutmix puts a box of :math:`x'` with the share :math:`1 - \lambda` of the image's area into x,
    around a uniform centre and cut off at the border, and :math:`\lambda` becomes the share that is left of x. The targets are
    :math:`\lambda s(y) + (1 - \lambda) s(y')` with :math:`s(y) = \epsilon / K + (1 - \epsilon) onehot(y)`.

    Kornia's mixup draws :math:`\lambda` uniformly, its cutmix a box of its own for every image, and both their own pairs and no smoothed
    targets, so this is done here. What is drawn comes from PyTorch's generator of the CPU on every device.

    Args:
        num_classes: K.
        mixup_alpha: :math:`\alpha` of mixup; 0 switches it off.
        cutmix_alpha: :math:`\alpha` of cutmix; 0 switches it off.
        prob: Probability with which a batch is mixed; the others have smoothed labels only.
        switch_prob: Probability with which a mixed batch gets cutmix, where both are on.
        label_smoothing: :math:`\epsilon`.

    Raises:
        UserError: For an argument outside its range.
    """

    def __init__(
        self,
        num_classes: int,
        mixup_alpha: float = 0.8,
        cutmix_alpha: float = 1.0,
        prob: float = 1.0,
        switch_prob: float = 0.5,
        label_smoothing: float = 0.1,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise UserError(f'num_classes={num_classes}: at least 2 classes are needed, as many as the model has')
        for name, alpha in (('mixup_alpha', mixup_alpha), ('cutmix_alpha', cutmix_alpha)):
            if not 0 <= alpha < math.inf:
                raise UserError(f'{name}={alpha}: a number of at least 0 is needed; 0 switches it off')
        if not mixup_alpha and not cutmix_alpha:
            raise UserError(
                'mixup_alpha=0 and cutmix_alpha=0: at least one must be above 0; to smooth labels only, give the loss label_smoothing '
                'instead of this'
            )
        for name, value in (('prob', prob), ('switch_prob', switch_prob)):
            if not 0 <= value <= 1:
                raise UserError(f'{name}={value}: a probability from 0 to 1 is needed')
        if not 0 <= label_smoothing < 1:
            raise UserError(f'label_smoothing={label_smoothing}: a number from 0 to below 1 is needed; the recipe has 0.1')
        self.num_classes = num_classes
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha
        self.prob = prob
        self.switch_prob = switch_prob
        self.label_smoothing = label_smoothing

    def draw(self, height: int, width: int) -> tuple[float, tuple[int, int, int, int] | None]:
        """What to do with a batch.

        Args:
            height: Of the images, in pixels.
            width: Of the images, in pixels.

        Returns:
            The share of the images themselves in the mixture, and for cutmix the box of the others: top, left, bottom, right in pixels,
            the last two excluded.
        """
        cpu = torch.device('cpu')
        mixed, switched, centre_y, centre_x = torch.rand(4, device=cpu, dtype=torch.float64).tolist()
        if mixed >= self.prob:
            return 1.0, None
        use_cutmix = self.cutmix_alpha > 0 and (self.mixup_alpha == 0 or switched < self.switch_prob)
        alpha = torch.tensor(self.cutmix_alpha if use_cutmix else self.mixup_alpha, device=cpu, dtype=torch.float64)
        lam = float(torch.distributions.Beta(alpha, alpha).sample())
        if not use_cutmix:
            return lam, None
        half_height, half_width = (int(length * math.sqrt(1 - lam)) // 2 for length in (height, width))
        y, x = int(centre_y * height), int(centre_x * width)
        top, bottom = max(y - half_height, 0), min(y + half_height, height)
        left, right = max(x - half_width, 0), min(x + half_width, width)
        return 1 - (bottom - top) * (right - left) / (height * width), (top, left, bottom, right)

    def forward(self, images_BCHW: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        Args:
            images_BCHW: Images, float.
            labels_B: Class numbers, int64.

        Returns:
            Images of the same shape, type and memory format, and class probabilities (B, K) in float32. The arguments are left as they are.

        Raises:
            UserError: If there is not one class number per image.
        """
        if labels_B.shape != images_BCHW.shape[:1] or labels_B.dtype != torch.int64:
            raise UserError(
                f'labels of shape {tuple(labels_B.shape)} and type {labels_B.dtype} for {len(images_BCHW)} images: one class number '
                '(int64) per image is needed; mix once only, and before the labels become probabilities'
            )
        lam, box = self.draw(*images_BCHW.shape[2:])
        if box is not None:
            top, left, bottom, right = box
            mixed = images_BCHW.clone()
            mixed[:, :, top:bottom, left:right] = images_BCHW[:, :, top:bottom, left:right].flip(0)
        elif lam < 1:
            mixed = images_BCHW.flip(0).lerp_(images_BCHW, lam)
        else:
            mixed = images_BCHW.clone()
        off = self.label_smoothing / self.num_classes
        targets_BK = torch.full((len(labels_B), self.num_classes), off, device=labels_B.device)
        targets_BK.scatter_(1, labels_B.unsqueeze(1), 1 - self.label_smoothing + off)
        return mixed, targets_BK if lam == 1 else targets_BK.lerp(targets_BK.flip(0), 1 - lam)

    def extra_repr(self) -> str:
        """Its settings."""
        return (
            f'num_classes={self.num_classes}, mixup_alpha={self.mixup_alpha}, cutmix_alpha={self.cutmix_alpha}, prob={self.prob}, '
            f'switch_prob={self.switch_prob}, label_smoothing={self.label_smoothing}'
        )
