"""Which parts of a network belong to which segment, as data. A network publishes it, and everything else reads it there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

from ..feature_branches import FeatureBranch
from .latent_branch import LatentBranch

__all__ = ['PAPER_SEGMENTS', 'SegmentParts', 'Step', 'cnn', 'expand', 'publish_segments', 'read', 'segment_steps', 'stem', 'write']


@dataclass(frozen=True)
class Step:
    """One thing that a segment does.

    Attributes:
        operation: ``'stem'`` (images to x_0, and the initial latent code), ``'cnn'`` (a stage of the CNN), and of the latent branch
            ``'read'``, ``'expand'`` and ``'write'``; see the methods of :class:`~dynperceiver.models.LatentBranch`.
        stage: The stage that it belongs to, from 1; 0 for the stem.
        modules: Names, within the network, of the modules and parameters that it uses.
    """

    operation: str
    stage: int
    modules: tuple[str, ...]


def stem() -> Step:
    """The CNN's stem, and the latent code that all samples start with."""
    return Step('stem', 0, (f'feature_branch.{FeatureBranch.stage_module(0)}', 'latent_branch.latent'))


def cnn(stage: int) -> Step:
    """A stage of the CNN, from 1."""
    return Step('cnn', stage, (f'feature_branch.{FeatureBranch.stage_module(stage)}',))


def _latent(operation: str, stage: int, num_stages: int = 4) -> Step:
    return Step(operation, stage, tuple(f'latent_branch.{name}' for name in LatentBranch.stage_modules(operation, stage, num_stages)))


read, expand, write = (partial(_latent, operation) for operation in ('read', 'expand', 'write'))


def segment_steps(
    num_stages: int = 4,
    read_stages: Sequence[int] = (1, 2, 3, 4),
    exit_stages: Sequence[int] = (3, 4),
    *,
    expands: bool = True,
    writes: bool = True,
    merges: bool = True,
) -> tuple[tuple[Step, ...], ...]:
    """What the segments of a network do, each up to where its exit has all that it classifies; the default is the paper's (section 3.3).

    Args:
        num_stages: Stages of the CNN.
        read_stages: Stages (from 1) of the latent code; stage i reads x_{i-1}.
        exit_stages: Stages at whose beginning an early exit stands, behind the read.
        expands: Whether the code changes its shape between stages.
        writes: Whether it is written to the CNN's maps.
        merges: Whether a last exit joins both branches behind the CNN's own.
    """
    segments: list[list[Step]] = [[stem()]]
    for stage in range(1, num_stages + 1):
        if stage in read_stages:
            segments[-1].append(read(stage))
        if stage in exit_stages:
            segments.append([])
        segments[-1].append(cnn(stage))
        if stage < num_stages:
            segments[-1] += [expand(stage, num_stages)] * expands + [write(stage, num_stages)] * writes
    if merges:
        segments.append([write(num_stages, num_stages)] * writes)
    return tuple(map(tuple, segments))


PAPER_SEGMENTS = segment_steps()
"""What the segments of the paper's network do."""


@dataclass(frozen=True)
class SegmentParts:
    """What a segment is made of.

    Attributes:
        number: The segment's number, and its exit's, from 1.
        steps: What it does, in this order.
        exit_module: Name, within the network, of its exit; ``None`` in a network without exits.
        exit_reads: Fields of the :class:`~dynperceiver.structures.NetworkState` that the exit is called with, in this order.
        hands_on_logits: Whether later exits get the logits of this one.
    """

    number: int
    steps: tuple[Step, ...]
    exit_module: str | None = None
    exit_reads: tuple[str, ...] = ()
    hands_on_logits: bool = False

    @property
    def modules(self) -> tuple[str, ...]:
        """Names, within the network, of all modules and parameters that the segment uses, its exit's included."""
        return (*chain.from_iterable(step.modules for step in self.steps), *([] if self.exit_module is None else [self.exit_module]))

    def stages(self, operation: str) -> tuple[int, ...]:
        """Numbers, from 1, of the stages for which it does something; ``stages('cnn')`` are the stages of the CNN that it runs."""
        return tuple(step.stage for step in self.steps if step.operation == operation)


def publish_segments(steps: Sequence[Sequence[Step]], exits: Sequence[Any] | None) -> tuple[SegmentParts, ...]:
    """The parts of a network's segments.

    Args:
        steps: What each segment does.
        exits: Exits of the network, each with what it ``reads`` and whether it ``hands_on`` its logits; ``None`` where there are none.

    Raises:
        ValueError: If there is not one exit per segment, or the stages of the CNN do not come one after another.
    """
    if exits is not None and len(exits) != len(steps):
        raise ValueError(f'{len(exits)} exits for {len(steps)} segments: every segment ends in one exit; pass one per segment, or None')
    stages = [step.stage for step in chain.from_iterable(steps) if step.operation in ('stem', 'cnn')]
    if stages != list(range(len(stages))):
        raise ValueError(
            f'the segments run the stages of the CNN in the order {stages} (0 is the stem), but each needs the map of the one before it; '
            'start with the stem, and leave no stage out'
        )
    if exits is None:
        return tuple(SegmentParts(number, tuple(part)) for number, part in enumerate(steps, 1))
    return tuple(
        SegmentParts(number, tuple(part), f'exits.{number - 1}', tuple(exit_head.reads), exit_head.hands_on)
        for number, (part, exit_head) in enumerate(zip(steps, exits, strict=True), 1)
    )
