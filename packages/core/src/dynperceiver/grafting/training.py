"""Training of a latent branch and its exits on cached maps, the trunk as it is: cross-entropy, and distillation from the trunk's logits.

Shape suffixes: B rows, K classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dataset import DefaultSampler
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import DataLoader

from dynperceiver_runtime import UserError

from ..losses import MultiExitLoss, batch_accuracies
from ..models import DynPerceiver
from ..structures import TrunkOutputs
from .cached_maps import CachedMaps

SMALLEST_PROBABILITY = 1e-12

__all__ = ['GraftTraining', 'as_trunk_outputs', 'exit_logits', 'train_on_maps']


def as_trunk_outputs(batch: Mapping[str, Any]) -> TrunkOutputs:
    """A batch of :class:`~dynperceiver.grafting.CachedMaps` as a network takes it, in single precision."""
    return TrunkOutputs({number: feature.float() for number, feature in batch['maps'].items()}, batch['logits'].float())


class GraftTraining(BaseModel):
    """A network whose trunk is frozen, as MMEngine trains it on cached maps.

    Args:
        network: The network.
        distill_weight: Weight of the distillation from the trunk.
        label_smoothing: Of the cross-entropy.
        unlabelled: Whether there are no labels: distillation alone.
        mixup_alpha: Maps, labels and the trunk's answers of two samples are mixed by a share from Beta(alpha, alpha); 0 for none. Without,
            exits that know their few training samples by heart are too sure of others.
    """

    def __init__(
        self,
        network: DynPerceiver,
        distill_weight: float = 1.0,
        label_smoothing: float = 0.0,
        unlabelled: bool = False,
        mixup_alpha: float = 0.0,
    ) -> None:
        super().__init__()
        if mixup_alpha < 0:
            raise UserError(f'mixup_alpha={mixup_alpha}: pass 0 for none, or a positive number such as 0.2')
        self.mixup_alpha = mixup_alpha
        assert network.exits is not None
        self.network = network
        self.unlabelled = unlabelled
        weights = [float(not unlabelled and index != network.exits.trunk_exit_index) for index in range(len(network.exits))]
        self.loss_module = MultiExitLoss(weights, distill_weight, label_smoothing=label_smoothing)

    def forward(self, maps: Mapping[int, Tensor], logits: Tensor, labels: Tensor, mode: str = 'tensor') -> Any:
        """Logits of all exits, or with ``mode='loss'`` loss terms and accuracies of the batch (with distillation alone, agreement)."""
        outputs = as_trunk_outputs({'maps': maps, 'logits': logits})
        if mode != 'loss':
            return self.network(outputs)
        if self.unlabelled:
            labels = self._clip_logits(outputs.logits_BK).argmax(1)
        targets: Tensor = labels
        if self.mixup_alpha:
            outputs, targets = self._mixed(outputs, labels)
        logits_SK = self.network(outputs)
        return {**self.loss_module(logits_SK, targets), **batch_accuracies(logits_SK, targets, (1,))}

    def _clip_logits(self, logits_BK: Tensor) -> Tensor:
        """Logits of samples from those of their frames."""
        frames = self.network.num_frames
        return logits_BK if frames == 1 else logits_BK.unflatten(0, (-1, frames)).mean(1)

    def _mixed(self, outputs: TrunkOutputs, labels: Tensor) -> tuple[TrunkOutputs, Tensor]:
        """Each sample mixed with another of the batch; the class probabilities of the mixture."""
        share = float(torch.distributions.Beta(self.mixup_alpha, self.mixup_alpha).sample())
        frames, other_S = self.network.num_frames, torch.randperm(len(labels), device=labels.device)
        other_B = (other_S[:, None] * frames + torch.arange(frames, device=labels.device)).flatten()
        target_SK = F.one_hot(labels, outputs.logits_BK.shape[1]).to(outputs.logits_BK.dtype)
        if self.loss_module.label_smoothing:
            smoothing = self.loss_module.label_smoothing
            target_SK = target_SK * (1 - smoothing) + smoothing / target_SK.shape[1]
        maps = {number: share * feature + (1 - share) * feature[other_B] for number, feature in outputs.maps.items()}
        answer_BK = outputs.logits_BK.softmax(1)
        mixed_BK = (share * answer_BK + (1 - share) * answer_BK[other_B]).clamp_min(SMALLEST_PROBABILITY).log()
        return TrunkOutputs(maps, mixed_BK), share * target_SK + (1 - share) * target_SK[other_S]


class _SeedViewsHook(Hook):
    """The views of an epoch's first batch, which is drawn before the first iteration has its random numbers, depend on the epoch alone."""

    def before_train_epoch(self, runner: Runner) -> None:
        torch.manual_seed(runner.seed + runner.epoch)


def _one_cycle(num_steps: int) -> list[dict[str, Any]]:
    """Linearly up in a tenth of the steps, and down in the rest; not by OneCycleLR, which puts itself into checkpoints, and these are read
    as data alone."""
    rise = max(2, num_steps // 10)  # the first step has the lowest rate, and the last of them the highest
    up = dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=rise)
    down = dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=False, begin=rise, end=num_steps)
    return [up, down] if num_steps > rise else [up]


def _name_of(cache: CachedMaps, network: DynPerceiver, *settings: Any) -> str:
    """Name for a training that depends on all that its result does."""
    shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    return hashlib.sha256(repr((cache.form, shapes, settings)).encode()).hexdigest()[:12]


def _as_it_is(batch: Any) -> Any:
    return batch


def train_on_maps(
    network: DynPerceiver,
    cache: CachedMaps,
    work_dir: Path,
    *,
    epochs: int = 25,
    batch_size: int = 64,
    lr: float = 2e-3,
    weight_decay: float = 0.05,
    seed: int = 0,
    unlabelled: bool = False,
    distill_weight: float = 1.0,
    label_smoothing: float = 0.0,
    mixup_alpha: float = 0.2,
    hooks: Sequence[Any] = (),
) -> DynPerceiver:
    """Train the latent branch and the early exits of a network; an interrupted training resumes from its last epoch.

    AdamW, linear warm-up and cosine; in each epoch every sample is seen once, in one of its views.

    Args:
        network: The network, which changes.
        cache: Maps of its trunk.
        work_dir: Where checkpoints and the log go, in a folder for each choice of the settings: what was trained otherwise is not resumed.
        epochs: Epochs.
        batch_size: Samples in a batch.
        lr: Largest learning rate.
        weight_decay: Weight decay.
        seed: Random seed.
        unlabelled: Distillation alone.
        distill_weight: Weight of the distillation.
        label_smoothing: Of the cross-entropy.
        mixup_alpha: See :class:`GraftTraining`.
        hooks: More hooks of MMEngine's runner.

    Raises:
        UserError: If there are fewer samples than a batch has.
    """
    if len(cache) < batch_size:
        raise UserError(f'{len(cache)} training samples are fewer than a batch of {batch_size}; pass a smaller batch size, or more samples')
    sampler = DefaultSampler(cache, shuffle=True, seed=seed)
    loader = DataLoader(cache, batch_size, sampler=sampler, drop_last=True, collate_fn=_as_it_is)
    terms = distill_weight, label_smoothing, mixup_alpha
    work_dir = work_dir / _name_of(cache, network, epochs, batch_size, lr, weight_decay, seed, unlabelled, *terms)
    model = GraftTraining(network, distill_weight, label_smoothing, unlabelled, mixup_alpha)
    interval = max(1, len(loader) // 2)
    runner = Runner(
        model,
        str(work_dir),
        train_dataloader=loader,
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=epochs),
        optim_wrapper=dict(
            type='OptimWrapper',
            optimizer=dict(type='AdamW', lr=lr, weight_decay=weight_decay),
            clip_grad=dict(max_norm=5, norm_type=2),
            paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0, flat_decay_mult=0),
        ),
        param_scheduler=_one_cycle(epochs * len(loader)),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=interval),
            checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=1),
        ),
        custom_hooks=[dict(type='dynperceiver.ResumableRandomnessHook'), _SeedViewsHook(), *hooks],
        randomness=dict(seed=seed),
        log_level='WARNING' if not hooks else 'INFO',
        resume=(work_dir / 'last_checkpoint').is_file(),
        experiment_name=f'graft_{work_dir.name}_{seed}',
        default_scope='mmengine',
    )
    runner.train()
    return network


@torch.inference_mode()
def exit_logits(network: DynPerceiver, cache: CachedMaps, batch_size: int = 256) -> tuple[Tensor, ...]:
    """Logits of all exits for the samples of a cache of one view, in their order, each (samples, K)."""
    network.eval()
    parts = [
        network(as_trunk_outputs(cache.__getitems__(range(start, min(start + batch_size, len(cache))))))
        for start in range(0, len(cache), batch_size)
    ]
    return tuple(torch.cat(logits) for logits in zip(*parts, strict=True))
