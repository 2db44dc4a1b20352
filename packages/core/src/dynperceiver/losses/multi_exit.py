"""Joint training of all exits (paper section 3.4).

Shape suffixes: S samples, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from dynperceiver_runtime import UserError

from ..registry import MODELS

__all__ = ['MultiExitLoss']


@MODELS.register_module()
class MultiExitLoss(nn.Module):
    r"""Cross-entropy of all exits and self-distillation from the last exit into the earlier ones.

    With K exits, :math:`CE_k` the cross-entropy of exit k and :math:`KL_k = KL(softmax(y_K / T) || softmax(y_k / T))`, the teacher
    detached:

    - ``form='sum'`` (the reference recipe): :math:`\sum_k w_k CE_k + \alpha T^2 \sum_{k<K} KL_k`;
    - ``form='mixed'`` (paper, Eq. 3): :math:`w_K CE_K + \sum_{k<K} w_k ((1 - \alpha) CE_k + \alpha T^2 KL_k)`.

    Args:
        exit_weights: :math:`w_1 .. w_K`, one per exit of the model. The reference recipe for the four exits of the paper's network has
            0.5 for the two latent exits, 1 for the feature exit and 1 for the merged exit. With a weight of 0 an exit learns nothing. A
            backbone-only baseline has one exit: ``(1,)``, which distils nothing.
        distill_weight: :math:`\alpha`; 0 switches self-distillation off.
        temperature: T.
        form: ``'sum'`` or ``'mixed'``.
        label_smoothing: Of the cross-entropy where labels are class numbers; probabilities are taken as they are, as mixup smooths
            its own.

    Raises:
        UserError: For a number outside its rule.
    """

    def __init__(
        self,
        exit_weights: Sequence[float] = (0.5, 0.5, 1.0, 1.0),
        distill_weight: float = 0.5,
        temperature: float = 1.0,
        form: str = 'sum',
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if not exit_weights or min(exit_weights) < 0:
            raise UserError(
                f"exit_weights={tuple(exit_weights)}: one number of at least 0 per exit is needed; the recipe for the paper's four exits "
                'is (0.5, 0.5, 1, 1), and (1,) is for a backbone-only baseline'
            )
        if form not in ('sum', 'mixed'):
            raise UserError(f"form={form!r}: choose 'sum' (reference recipe) or 'mixed' (paper, Eq. 3)")
        if distill_weight < 0 or (form == 'mixed' and distill_weight > 1):
            raise UserError(f"distill_weight={distill_weight}: at least 0 is needed, and at most 1 for form='mixed'")
        if temperature <= 0:
            raise UserError(f'temperature={temperature}: a positive number is needed; the recipe has 1')
        self.exit_weights = tuple(exit_weights)
        self.distill_weight = distill_weight
        self.temperature = temperature
        self.form = form
        self.label_smoothing = label_smoothing

    def forward(self, logits_SK: Sequence[Tensor], target: Tensor) -> dict[str, Tensor]:
        """Weighted terms, whose sum is the loss.

        Args:
            logits_SK: Logits of the exits, each (S, K).
            target: Class numbers (S,), or class probabilities (S, K) as mixup and cutmix give.

        Returns:
            ``loss_exit1``, ``loss_exit2`` .. and, with distillation and several exits, ``loss_distill``: scalars. Everything whose name
            contains ``loss`` is summed by MMEngine.

        Raises:
            UserError: If the model has another number of exits than ``exit_weights``.
        """
        if len(logits_SK) != len(self.exit_weights):
            raise UserError(
                f'the model has {len(logits_SK)} exits, but exit_weights={self.exit_weights}; give the loss one weight per exit, (1,) '
                'for a backbone-only baseline'
            )
        weights = list(self.exit_weights)
        if self.form == 'mixed':
            weights = [weight * (1 - self.distill_weight) for weight in weights[:-1]] + weights[-1:]
        smoothing = 0.0 if target.is_floating_point() else self.label_smoothing
        losses = {
            f'loss_exit{number}': weight * F.cross_entropy(logits, target, label_smoothing=smoothing)
            for number, (weight, logits) in enumerate(zip(weights, logits_SK, strict=True), 1)
        }
        if self.distill_weight and len(logits_SK) > 1:
            scale = self.distill_weight * self.temperature**2
            teacher = F.log_softmax(logits_SK[-1].detach() / self.temperature, 1)
            terms = [
                F.kl_div(F.log_softmax(logits / self.temperature, 1), teacher, reduction='batchmean', log_target=True)
                for logits in logits_SK[:-1]
            ]
            if self.form == 'mixed':
                terms = [weight * term for weight, term in zip(self.exit_weights, terms, strict=False)]
            losses['loss_distill'] = scale * sum(terms[1:], terms[0])
        return losses
