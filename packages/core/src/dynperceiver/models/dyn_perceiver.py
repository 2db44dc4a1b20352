"""Dyn-Perceiver (Han et al., ICCV 2023): segments, each ending in an exit, and one loop that runs them; four in the paper's network.

Shape suffixes: B rows (samples times frames), S samples, C channels, H/W feature size, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from dynperceiver_runtime import UserError

from ..feature_branches import FeatureBranch, check_levels
from ..structures import NetworkState, TrunkOutputs
from .exits import ExitHeads
from .latent_branch import LatentBranch
from .segment_parts import PAPER_SEGMENTS, Step, publish_segments
from .variant_check import check_same_variant, unused_prefixes

__all__ = ['DynPerceiver', 'Segment']


class Segment(nn.Module):
    """One step of the network: a state goes in, this segment's logits and the next state come out.

    A segment owns no parameters, so that the network's state dict knows each of them once; it calls the network's two branches
    and its exit. As a module of its own it can be hooked, timed and exported.

    Args:
        network: The network it belongs to.
        number: Its number, from 1.
    """

    def __init__(self, network: DynPerceiver, number: int) -> None:
        super().__init__()
        object.__setattr__(self, 'network', network)  # a plain attribute: a registered one would close a circle of modules
        self.number = number

    def forward(self, state: NetworkState | Tensor | TrunkOutputs) -> tuple[Tensor | None, NetworkState]:
        """Advance a state (or a batch of images, for segment 1).

        Returns:
            The logits of this segment's exit, shape (S, K), or ``None`` where the network has no exits or the state collects a
            pyramid; and the state for the next segment.
        """
        network: DynPerceiver = self.__dict__['network']
        if not isinstance(state, NetworkState):
            state = network.start(state)
        state = network.advance(self.number, state)
        if network.exits is None or state.pyramid is not None:
            return None, state
        logits_BK = network.classify(self.number, state)
        if network.segment_parts[self.number - 1].hands_on_logits:
            state = state.evolve(previous_logits_BK=logits_BK)
        if state.num_frames > 1:
            logits_BK = torch.unflatten(logits_BK, 0, (-1, state.num_frames)).mean(1)
        return logits_BK, state

    def extra_repr(self) -> str:
        """The segment's number, for ``print(model)``."""
        return f'number={self.number}'


class DynPerceiver(nn.Module):
    """The dual-branch network.

    Args:
        feature_branch: The CNN.
        latent_branch: The latent code and its attention.
        exits: The classifiers, one per segment; ``None`` builds a backbone without any.
        num_frames: Frames per clip, T. With T > 1 the rows of a batch are clips times frames, every exit averages its logits over
            the frames of a clip, and the logits handed on by knowledge transfer stay per frame. 1 for images.
        steps: What each segment does.
        frozen_trunk: Whether the CNN and its classifier stay as they are in training.

    Attributes:
        segments: The segments, as modules.
        segment_parts: What belongs to each of them, see :class:`~dynperceiver.models.SegmentParts`.

    Raises:
        ValueError: If there is not one exit per segment, or the stages of the CNN do not come one after another.
    """

    def __init__(
        self,
        feature_branch: FeatureBranch,
        latent_branch: LatentBranch,
        exits: ExitHeads | None,
        num_frames: int = 1,
        steps: Sequence[Sequence[Step]] = PAPER_SEGMENTS,
        frozen_trunk: bool = False,
    ) -> None:
        super().__init__()
        self.feature_branch = feature_branch
        self.latent_branch = latent_branch
        self.exits = exits
        self.num_frames = num_frames
        self.segment_parts = publish_segments(steps, None if exits is None else list(exits))
        self.segments = nn.ModuleList(Segment(self, parts.number) for parts in self.segment_parts)
        self.frozen_trunk = frozen_trunk
        if frozen_trunk:
            feature_branch.freeze_stages(feature_branch.num_stages)
            for part in self._frozen_exits():
                part.requires_grad_(False).eval()
        self._written = frozenset(stage for parts in self.segment_parts for stage in parts.stages('write'))

    def _frozen_exits(self) -> list[nn.Module]:
        return [self.exits[self.exits.trunk_exit_index]] if self.frozen_trunk and self.exits is not None else []

    def train(self, mode: bool = True) -> DynPerceiver:
        """Training or evaluation mode; a frozen trunk stays in evaluation mode."""
        super().train(mode)
        for part in self._frozen_exits():
            part.eval()
        return self

    @property
    def num_exits(self) -> int:
        """Number of exits; 0 for a backbone."""
        return 0 if self.exits is None else len(self.exits)

    @property
    def num_classes(self) -> int | None:
        """Classes of every exit; ``None`` for a backbone."""
        return None if self.exits is None else self.exits.num_classes

    @property
    def unused_prefixes(self) -> tuple[str, ...]:
        """Prefixes of keys that an image checkpoint has and this network has no use for; none where it has exits."""
        return unused_prefixes(self)

    @property
    def exits_of_stages(self) -> dict[int, int | None]:
        """The stages (from 1) in which the latent code is refined, each with the number (from 1) of the exit that classifies this code
        alone; ``None`` where no exit, or one that classifies a feature map, comes after the stage."""
        found: dict[int, int | None] = {}
        for parts in self.segment_parts:
            stages = parts.stages('read')
            found |= dict.fromkeys(stages)
            if stages and 'latent_BNC' in parts.exit_reads and 'feature_BCHW' not in parts.exit_reads:
                found[stages[-1]] = parts.number
        return found

    def builds(self, step: Step) -> bool:
        """Whether what a step uses was built; a backbone ends where its last map is written."""
        branch = self.latent_branch if step.operation in ('read', 'expand') else self.feature_branch
        return step.stage <= branch.num_stages

    def stage_parts(self, stage: int) -> Iterator[nn.Module | nn.Parameter]:
        """What belongs to a stage (from 1) in both branches; ``stage=0`` gives the stem and the initial latent code."""
        for parts in self.segment_parts:
            for step in parts.steps:
                if step.stage == stage:
                    yield from (attrgetter(name)(self) for name in step.modules)

    def start(
        self, images_BCHW: Tensor | TrunkOutputs, collect_pyramid: bool = False, levels: Sequence[int] = (1, 2, 3, 4)
    ) -> NetworkState:
        """The state before segment 1.

        Args:
            images_BCHW: Images or frames, shape (B, 3, H, W), B a multiple of ``num_frames``. Or what the CNN gave for them before, with
                the maps that the latent code reads.
            collect_pyramid: Collect feature maps on the way and evaluate no exit.
            levels: Numbers i of the maps x_i to collect then, in rising order; 0 is the stem's.

        Raises:
            ValueError: If the shape is not that of whole samples.
        """
        if isinstance(images_BCHW, TrunkOutputs):
            return NetworkState(next(iter(images_BCHW.maps.values())), num_frames=self.num_frames, trunk_outputs=images_BCHW)
        input_dims = self.feature_branch.input_dims
        if images_BCHW.dim() != input_dims or images_BCHW.shape[0] % self.num_frames:
            expected = 'images as (B, 3, H, W), for video with the frames of the clips in the batch axis'
            if input_dims == 5:
                expected = 'clips as (B, 3, T, H, W)'
            raise UserError(f'input of shape {tuple(images_BCHW.shape)}: pass {expected} (B = clips * {self.num_frames})')
        images_BCHW = self.feature_branch.lay_out(images_BCHW)
        return NetworkState(images_BCHW, num_frames=self.num_frames, pyramid=() if collect_pyramid else None, levels=tuple(levels))

    def advance(self, number: int, state: NetworkState) -> NetworkState:
        """Segment ``number`` (from 1) without its exit.

        Raises:
            ValueError: If the state is not that of an earlier segment.
        """
        if number > 1 and state.latent_BNC is None:
            raise ValueError(f'segment {number} got a state without latent code; pass it the state that segment {number - 1} returned')
        for step in self.segment_parts[number - 1].steps:
            state = self._take(step, state)
        return state

    def _take(self, step: Step, state: NetworkState) -> NetworkState:
        branch, stage, feature, latent = self.latent_branch, step.stage, state.feature_BCHW, state.latent_BNC
        if step.operation == 'stem':
            if state.trunk_outputs is None:
                state = state.collect(0, self.feature_branch.stem(feature))
            return state.evolve(latent_BNC=branch.start(state.feature_BCHW))
        if step.operation == 'cnn' and state.trunk_outputs is not None:
            return state.evolve(feature_BCHW=state.trunk_outputs.maps.get(stage, feature))
        if step.operation == 'cnn':
            feature = self.feature_branch.stages[stage - 1](feature)
            return state.evolve(feature_BCHW=feature) if stage in self._written else state.collect(stage, feature)
        assert latent is not None
        if step.operation == 'read':
            return state.evolve(latent_BNC=branch.read(stage, latent, feature))
        if step.operation == 'expand':
            return state.evolve(latent_BNC=branch.expand(stage, latent))
        return state.collect(stage, branch.write(stage, feature, latent))

    def classify(self, number: int, state: NetworkState) -> Tensor:
        """Per-row logits (B, K) of exit ``number`` (from 1) from the state after that segment."""
        assert self.exits is not None
        if state.trunk_outputs is not None and number - 1 == self.exits.trunk_exit_index:
            return state.trunk_outputs.logits_BK
        inputs = (getattr(state, name) for name in self.segment_parts[number - 1].exit_reads)
        logits_BK: Tensor = self.exits[number - 1](*inputs)
        return logits_BK

    def run(self, state: NetworkState) -> Iterator[tuple[Tensor | None, NetworkState]]:
        """The loop: yield each segment's logits and state. Stop pulling, and nothing more is computed."""
        for segment in self.segments:
            logits_SK, state = segment(state)
            yield logits_SK, state

    def forward(self, images_BCHW: Tensor | TrunkOutputs) -> tuple[Tensor, ...]:
        """All exits.

        Args:
            images_BCHW: Images or frames, shape (B, 3, H, W), or what the CNN gave for them before; see :meth:`start`.

        Returns:
            Logits of shape (S, classes), one per exit in their order, S = B / num_frames.

        Raises:
            ValueError: If the network was built without exits.
        """
        if self.exits is None:
            raise UserError('num_classes=None built this network without exits; call pyramid() for x_1..x_4, or build it with num_classes')
        return tuple(logits_SK for logits_SK, _ in self.run(self.start(images_BCHW)) if logits_SK is not None)

    def pyramid(self, images_BCHW: Tensor, levels: Sequence[int] = (1, 2, 3, 4)) -> tuple[Tensor, ...]:
        """Feature maps, each after its latent-to-feature attention; no exit is evaluated.

        Args:
            images_BCHW: Images, shape (B, 3, H, W), any size.
            levels: Numbers i of the maps x_i to return, in rising order; 0 is the stem's. For a detector on any feature branch take
                ``feature_branch.pyramid_levels``.

        Raises:
            ValueError: If there are no such maps.
        """
        check_levels(levels, self.feature_branch.num_stages)
        maps = [state.pyramid for _, state in self.run(self.start(images_BCHW, collect_pyramid=True, levels=levels))][-1]
        assert maps is not None
        return maps

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        check_same_variant(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)
