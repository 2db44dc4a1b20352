"""Frozen data that travels between the segments of the network, and names of its tensors.

Shape suffixes: B rows (samples times frames), C channels, H/W feature size, N latent tokens, K classes, S samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ['CLASSES_KEYS', 'PARTS', 'NetworkState', 'TrunkOutputs']

PARTS = ('feature_branch.', 'latent_branch.', 'exits.')
"""What the names of a network's tensors begin with."""

CLASSES_KEYS = tuple(f'exits.0.{name}.bias' for name in ('classifier', 'feature_classifier', 'joined_classifier', 'probe_classifier'))
"""Tensors with an entry per class; every network with exits has one of them, depending on what its early exits classify."""


@dataclass(frozen=True)
class TrunkOutputs:
    """What a frozen CNN gave for a batch, kept, so that a latent branch can be trained on it without running the CNN again.

    Attributes:
        maps: Number i to the map x_i, for those that the latent code reads; they may be averaged as for a read.
        logits_BK: Logits of the CNN's own classifier, one row per image or frame.
    """

    maps: Mapping[int, Tensor]
    logits_BK: Tensor


@dataclass(frozen=True)
class NetworkState:
    """What one segment hands to the next; everything that later exits need, and nothing else.

    A sample is an image, or for video a clip of ``num_frames`` frames, which stand as consecutive rows.

    Attributes:
        feature_BCHW: The images before segment 1, afterwards the newest feature map, shape (B, C, H, W).
        latent_BNC: The newest latent code, shape (B, N, C); ``None`` before segment 1.
        previous_logits_BK: Per-frame logits of the newest early exit, shape (B, classes), which later exits get by forward knowledge
            transfer (paper section 3.3); ``None`` where there is none.
        num_frames: Rows per sample: 1 for images, T for clips.
        pyramid: ``None``, or the feature maps collected so far (each after its latent-to-feature attention). A state that collects
            the pyramid evaluates no exit.
        levels: Numbers i of the maps x_i to collect, where a pyramid is collected.
        trunk_outputs: What the CNN gave for this batch before; ``None`` where it runs. Only a state that is run through as a whole has it.
    """

    feature_BCHW: Tensor
    latent_BNC: Tensor | None = None
    previous_logits_BK: Tensor | None = None
    num_frames: int = 1
    pyramid: tuple[Tensor, ...] | None = None
    levels: tuple[int, ...] = (1, 2, 3, 4)
    trunk_outputs: TrunkOutputs | None = None

    @property
    def num_samples(self) -> int:
        """Number of samples (images or clips) in the batch."""
        return self.feature_BCHW.shape[0] // self.num_frames

    def evolve(self, **changes: object) -> NetworkState:
        """Copy with some fields replaced."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def collect(self, level: int, feature_BCHW: Tensor) -> NetworkState:
        """State with x_level as its newest feature map, kept for the pyramid where it is asked for."""
        if self.pyramid is None or level not in self.levels:
            return replace(self, feature_BCHW=feature_BCHW)
        return replace(self, feature_BCHW=feature_BCHW, pyramid=(*self.pyramid, feature_BCHW))

    def select(self, index_S: Tensor) -> NetworkState:
        """Narrow the batch to some samples; a clip stays whole.

        Args:
            index_S: Sample numbers, shape (S,) of an integer type, or a boolean mask of shape (num_samples,).

        Returns:
            The state of those samples, in the order of ``index_S``.

        Raises:
            ValueError: If ``index_S`` is neither of the two, or the state runs on kept outputs of the CNN.
        """
        if self.trunk_outputs is not None:
            raise ValueError('a state with kept outputs of the CNN runs as a whole; choose samples before it starts')
        if index_S.dtype == torch.bool:
            if index_S.shape != (self.num_samples,):
                raise ValueError(
                    f'a mask of shape {tuple(index_S.shape)} cannot select among {self.num_samples} samples; '
                    f'pass a boolean tensor of shape ({self.num_samples},)'
                )
            index_S = index_S.nonzero().squeeze(1)
        elif index_S.dim() != 1 or index_S.is_floating_point():
            raise ValueError(
                f'index has shape {tuple(index_S.shape)} and type {index_S.dtype}; pass a 1-D tensor of sample numbers or a boolean mask'
            )
        rows_B = index_S = index_S.long()  # bytes would select as a mask
        if self.num_frames > 1:
            frames_T = torch.arange(self.num_frames, device=index_S.device)
            rows_B = (index_S[:, None] * self.num_frames + frames_T).flatten()

        def pick(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.index_select(0, rows_B)

        def pick_map(map_BCHW: Tensor) -> Tensor:
            # By its pixels, so that what is channels-last stays so; a row is then one piece of memory, too.
            if map_BCHW.is_contiguous(memory_format=torch.channels_last):
                return map_BCHW.permute(0, 2, 3, 1).index_select(0, rows_B).permute(0, 3, 1, 2)
            return map_BCHW.index_select(0, rows_B)

        return replace(
            self,
            feature_BCHW=pick_map(self.feature_BCHW),
            latent_BNC=pick(self.latent_BNC),
            previous_logits_BK=pick(self.previous_logits_BK),
            pyramid=None if self.pyramid is None else tuple(map(pick_map, self.pyramid)),
        )

    def narrow(self, start: int, stop: int) -> NetworkState:
        """The consecutive samples from ``start`` to before ``stop``, as views."""
        rows = slice(start * self.num_frames, stop * self.num_frames)
        return replace(
            self,
            feature_BCHW=self.feature_BCHW[rows],
            latent_BNC=None if self.latent_BNC is None else self.latent_BNC[rows],
            previous_logits_BK=None if self.previous_logits_BK is None else self.previous_logits_BK[rows],
            pyramid=None if self.pyramid is None else tuple(level[rows] for level in self.pyramid),
        )

    def split(self, num_samples: int) -> tuple[NetworkState, ...]:
        """Consecutive parts of at most so many samples, as views; :meth:`concat` undoes it.

        Args:
            num_samples: At least 1.
        """
        if self.num_samples <= num_samples:
            return (self,)
        return tuple(self.narrow(start, min(start + num_samples, self.num_samples)) for start in range(0, self.num_samples, num_samples))

    @staticmethod
    def concat(states: Sequence[NetworkState]) -> NetworkState:
        """One state of the samples of several, which all come from the same segment.

        Args:
            states: At least one.

        Raises:
            ValueError: If the states come from different segments, or differ in size or frames per sample.
        """
        first = states[0]
        kinds = {
            (
                state.feature_BCHW.shape[1:],
                None if state.latent_BNC is None else state.latent_BNC.shape[1:],
                state.previous_logits_BK is None,
                state.num_frames,
                None if state.pyramid is None else len(state.pyramid),
            )
            for state in states
        }
        if len(kinds) > 1:
            raise ValueError(
                f'{len(kinds)} kinds of states (map, latent code, previous logits, frames, pyramid) cannot be joined: '
                f'{sorted(map(str, kinds))}; '
                'gather states after the same segment, of images of one size'
            )

        def join(tensors: Sequence[Tensor | None]) -> Tensor | None:
            return None if tensors[0] is None else torch.cat(tensors)  # type: ignore[arg-type]

        return replace(
            first,
            feature_BCHW=torch.cat([state.feature_BCHW for state in states]),
            latent_BNC=join([state.latent_BNC for state in states]),
            previous_logits_BK=join([state.previous_logits_BK for state in states]),
            pyramid=None if first.pyramid is None else tuple(map(torch.cat, zip(*(state.pyramid or () for state in states), strict=True))),
        )
