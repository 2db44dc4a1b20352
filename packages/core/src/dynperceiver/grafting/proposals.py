"""Where to cut a network: the share of its time at each point, and how much a quick linear probe there knows of its answers.

Shape suffixes: B samples, C channels, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from .cuts import cut_layout, cut_nodes
from .tracing import GraftError, Traced, trace

__all__ = ['Proposal', 'choose_cuts', 'proposal_table', 'propose_cuts']

MIN_SHARE, MAX_SHARE, CLOSE = 0.15, 0.9, 0.03  # of the network's time
RIDGE = 1e-2


@dataclass(frozen=True)
class Proposal:
    """A point where a network can be cut.

    Attributes:
        name: Name of the module that ends there.
        time_share: Share of the network's time that is spent before.
        agreement: Fraction of the samples whose answer a linear probe there gets as the network does.
    """

    name: str
    time_share: float
    agreement: float


class _Watcher(fx.Interpreter):
    """Runs a graph, adds up the time of its operators, and keeps the means of some of their results."""

    def __init__(self, traced: Traced, watched: Iterable[fx.Node]) -> None:
        super().__init__(fx.GraphModule(traced.root, traced.graph))
        self.names = {node.name for node in watched}
        self.seconds: dict[str, float] = {}
        self.results: dict[str, Tensor] = {}

    def run_node(self, node: fx.Node) -> Any:
        start = time.perf_counter()
        result = super().run_node(node)
        self.seconds[node.name] = self.seconds.get(node.name, 0.0) + time.perf_counter() - start
        if node.name in self.names:
            self.results[node.name] = result
        return result


def _time_shares(traced: Traced, nodes: dict[str, fx.Node], repeats: int = 5) -> dict[str, float]:
    """Share of the time before each point: medians over some runs."""
    runs = []
    for _ in range(repeats):
        watcher = _Watcher(traced, ())
        watcher.run(traced.example[:1] if not traced.is_single else traced.example)
        runs.append([watcher.seconds[node.name] for node in traced.nodes])
    ends = np.cumsum(np.median(runs, axis=0))
    return {name: float(ends[traced.index[node]] / ends[-1]) for name, node in nodes.items()}


def _agreement(features: np.ndarray, answers: np.ndarray, num_classes: int) -> float:
    """How often a ridge probe, fitted on every other sample, gives the answers of the rest."""
    mean, std = features[::2].mean(0), features[::2].std(0) + 1e-6
    normal = np.concatenate([(features - mean) / std, np.ones((len(features), 1))], 1)
    fitted, targets = normal[::2], np.eye(num_classes)[answers[::2]]
    gram = fitted.T @ fitted
    weights = np.linalg.solve(gram + RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram)), fitted.T @ targets)
    return float(((normal[1::2] @ weights).argmax(1) == answers[1::2]).mean())


@torch.inference_mode()
def propose_cuts(network: nn.Module, example: Tensor, batches: Iterable[Tensor], max_seconds: float = 60.0) -> list[Proposal]:
    """All points worth an exit, in their order: not close to another in time, nor to either end.

    Args:
        network: Takes one tensor and returns logits (samples, classes).
        example: What it takes, with two samples or more.
        batches: Batches of what it takes, for the probes; some hundred samples do.
        max_seconds: Time for the probes.

    Raises:
        GraftError: If the network cannot be traced, or has no such point.
    """
    start = time.monotonic()
    traced = trace(network.eval() or network, example)
    nodes = cut_nodes(traced)
    shares = _time_shares(traced, nodes)
    kept: list[str] = []
    for name in sorted(nodes, key=lambda name: (name.count('.'), -shares[name])):  # outer modules before inner ones
        if MIN_SHARE <= shares[name] <= MAX_SHARE and all(abs(shares[name] - shares[other]) >= CLOSE for other in kept):
            kept.append(name)
    if not kept:
        raise GraftError('no point of the network is worth an exit: one tensor alone crosses none between its first and last tenth of time')
    kept.sort(key=shares.__getitem__)
    features: dict[str, list[np.ndarray]] = {name: [] for name in kept}
    answers: list[np.ndarray] = []
    num_classes = 0
    for batch in batches:
        for part in batch.split(1) if traced.is_single else [batch]:
            watcher = _Watcher(traced, [nodes[name] for name in kept] + [traced.output])
            watcher.run(part)
            logits_BK = watcher.results[traced.output.name]
            num_classes = logits_BK.shape[1]
            answers.append(logits_BK.argmax(1).numpy())
            for name in kept:
                node = nodes[name]
                features[name].append(cut_layout(node, traced).mean(watcher.results[node.name]).double().numpy())
        if time.monotonic() - start > max_seconds:
            break
    answers_B = np.concatenate(answers)
    return [Proposal(name, shares[name], _agreement(np.concatenate(features[name]), answers_B, num_classes)) for name in kept]


def choose_cuts(proposals: Sequence[Proposal], num_cuts: int = 2) -> tuple[str, ...]:
    """The points at which exits would save the most time, were every sample to leave where a linear probe knows its answer."""

    def cost(chosen: Sequence[Proposal]) -> float:
        waiting, total = 1.0, 0.0
        for proposal in chosen:
            leaving = max(0.0, proposal.agreement - (1 - waiting))
            total, waiting = total + leaving * proposal.time_share, waiting - leaving
        return total + waiting

    best = min(combinations(proposals, min(num_cuts, len(proposals))), key=cost)
    return tuple(proposal.name for proposal in best)


def proposal_table(proposals: Sequence[Proposal], chosen: Sequence[str]) -> str:
    """The points, for people; those chosen have a star."""
    width = max(len(proposal.name) for proposal in proposals)
    lines = [f'  {"cut":<{width}}  {"time":>6}  {"agreement of a linear probe":>27}']
    lines += [
        f'{"*" if proposal.name in chosen else " "} {proposal.name:<{width}}  {proposal.time_share:>6.0%}  {proposal.agreement:>27.1%}'
        for proposal in proposals
    ]
    return '\n'.join(lines)
