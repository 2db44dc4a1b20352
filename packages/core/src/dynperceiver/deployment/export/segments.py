"""From a network to a folder that ONNX Runtime serves: one graph per segment, their manifest, the policy, and the proof that they agree.

Shape suffixes: B rows, C channels, H/W pixels, S samples, K classes, E exits.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import torch

from dynperceiver_runtime.engines.manifest import POLICY, GraphEntry, Manifest, PolicyEntry, file_sha256
from dynperceiver_runtime.engines.onnx_runtime import OnnxRuntimeEngine
from dynperceiver_runtime.policy.exit_policy import ExitPolicy

from ...analysis import count_exit_costs
from ...models import DynPerceiver
from ..folding import copy_without_hooks
from ..freezing import FrozenNetwork
from .cleaning import ExportError
from .folder import new_folder, write_manifest
from .graphs import export_graphs
from .preprocessing import check_preprocessing

__all__ = ['OPSETS', 'TOLERANCE', 'ExportReport', 'SegmentReport', 'compare_logits', 'export', 'export_table']

OPSETS = range(18, 24)
TOLERANCE = 1e-4
"""Largest difference of logits between the graphs and the network, over the larger of 1 and the largest logit."""

MIN_SIDE = 32


@dataclass(frozen=True)
class SegmentReport:
    """A graph that was written.

    Attributes:
        file: Its name.
        num_bytes: Its size.
        num_nodes: Its operators.
        difference: Largest difference of its exit's logits from the network's; see :data:`TOLERANCE`.
    """

    file: str
    num_bytes: int
    num_nodes: int
    difference: float


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        folder: Where.
        manifest: Its manifest.
        segments: Its graphs.
    """

    folder: Path
    manifest: Manifest
    segments: tuple[SegmentReport, ...]

    @property
    def difference(self) -> float:
        """Largest difference of logits at any exit."""
        return max(segment.difference for segment in self.segments)


def export_table(report: ExportReport) -> str:
    """What was written, for people."""
    lines = [f'{"file":<14}  {"MB":>7}  {"nodes":>6}  {"GFLOPs to its exit":>18}  {"largest difference":>18}']
    lines += [
        f'{segment.file:<14}  {segment.num_bytes / 1e6:>7.2f}  {segment.num_nodes:>6}  {cost:>18.4g}  {segment.difference:>18.1e}'
        for segment, cost in zip(report.segments, report.manifest.cost_gflops, strict=True)
    ]
    return '\n'.join(lines)


def export(
    frozen: FrozenNetwork,
    out_dir: str | os.PathLike[str],
    policy: ExitPolicy | None = None,
    opset: int = 20,
    preprocessing: Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
) -> ExportReport:
    """Export a frozen network for serving, and compare the graphs with it.

    The folder gets a graph per segment (``segment1.onnx`` ..), ``manifest.json``, and ``policy.json`` where there is a policy. It appears
    when all is written and compared; an earlier export of that name is replaced.

    Args:
        frozen: See :func:`~dynperceiver.deployment.freeze`; the graphs take images of its size and no other.
        out_dir: The folder.
        policy: When samples leave.
        opset: Version of ONNX's operators, in :data:`OPSETS`.
        preprocessing: What pixels go through before, for the manifest: ``mean``, ``std`` (per channel) and anything else that JSON holds.
        class_names: Names of the classes, for the manifest.

    Returns:
        Files, their sizes, and how far the logits are from the network's.

    Raises:
        ExportError: If an argument does not suit, or a graph's logits differ from the network's.
        FileExistsError: If the folder holds other things.
        PolicyError: If the policy was made for other weights.
    """
    image_size, exits = frozen.image_size, frozen.network.exits
    assert exits is not None
    if any(side < MIN_SIDE for side in image_size):
        raise ExportError(f'image_size={tuple(image_size)}: pass height and width in pixels, whole numbers of {MIN_SIDE} or more')
    if opset not in OPSETS:
        raise ExportError(f'opset={opset}: pass {OPSETS[0]} to {OPSETS[-1]}; 20 is the first that has all operators of the network')
    preprocessing = check_preprocessing(preprocessing or {})
    class_names = None if class_names is None else tuple(map(str, class_names))
    if class_names is not None and len(class_names) != exits.num_classes:
        raise ExportError(f'{len(class_names)} class_names for {exits.num_classes} classes; pass one per class in their order, or None')
    if policy is not None:
        policy.check_checkpoint(frozen.fingerprint, 'the network')
        if policy.num_exits != len(exits):
            raise ExportError(f'the policy is for {policy.num_exits} exits, and the network has {len(exits)}; make one for this network')
    network = copy_without_hooks(frozen.network).cpu().float()
    with new_folder(Path(out_dir)) as folder:
        graphs = export_graphs(network, image_size, opset)
        entries = []
        for number, graph in enumerate(graphs, 1):
            file = f'segment{number}.onnx'
            onnx_ir.save(graph.model, folder / file)
            entries.append(GraphEntry(file, file_sha256(folder / file), graph.inputs, graph.updates, graph.keeps))
        if policy is not None:
            policy.save(folder / POLICY)
        manifest = Manifest(
            fingerprint=frozen.fingerprint,
            image_size=image_size,
            num_frames=network.num_frames,
            num_classes=exits.num_classes,
            segments=tuple(entries),
            cost_gflops=tuple(cost.cost_gmacs for cost in count_exit_costs(frozen.source, *image_size)),
            producer={name: _version(name) for name in ('dynperceiver', 'torch', 'onnx', 'onnxscript')},
            preprocessing=preprocessing,
            class_names=class_names,
            policy=None if policy is None else PolicyEntry(POLICY, file_sha256(folder / POLICY)),
        )
        write_manifest(folder, manifest)
        difference_E = _compare(network, OnnxRuntimeEngine(folder))
        sizes = [(folder / entry.file).stat().st_size for entry in entries]
    rows = zip(entries, sizes, graphs, difference_E, strict=True)
    segments = tuple(SegmentReport(entry.file, size, graph.num_nodes, difference) for entry, size, graph, difference in rows)
    return ExportReport(Path(out_dir), manifest, segments)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # on the path without being installed
        return 'unknown'


def compare_logits(logits_SK: np.ndarray, expected_SK: np.ndarray) -> float:
    """Largest difference of logits over the larger of 1 and the largest logit; infinite where one is not finite or the shapes differ."""
    if logits_SK.shape != expected_SK.shape or not (np.isfinite(logits_SK).all() and np.isfinite(expected_SK).all()):
        return math.inf
    return float(np.abs(logits_SK - expected_SK).max() / max(1.0, float(np.abs(expected_SK).max())))


def _compare(reference: DynPerceiver, engine: OnnxRuntimeEngine) -> list[float]:
    """Difference of the logits per exit, for one sample and for three, from the network in float64, which brings no rounding of its own."""
    reference = copy_without_hooks(reference).double()
    generator = np.random.default_rng(0)
    difference_E = [0.0] * engine.num_exits
    for num_samples in (1, 3):
        shape = (num_samples * engine.num_frames, 3, *engine.manifest.image_size)
        images_BCHW = generator.standard_normal(shape, dtype=np.float32)
        with torch.inference_mode():
            expected_ESK = [logits_SK.numpy() for logits_SK in reference(torch.from_numpy(images_BCHW).double())]
        state = engine.start(images_BCHW)
        for exit_index, expected_SK in enumerate(expected_ESK):
            logits_SK, state = engine.run(exit_index, state)
            difference = compare_logits(logits_SK, expected_SK)
            if difference > TOLERANCE:
                raise ExportError(
                    f"segment {exit_index + 1}: the graph's logits differ from the network's by {difference:.3g} of the largest one, "
                    f'at {num_samples} sample{"s" if num_samples > 1 else ""}. Rule: at most {TOLERANCE:g}. Remedy: check that the weights '
                    'are finite and the BatchNorm statistics trained; then try another --opset'
                )
            difference_E[exit_index] = max(difference_E[exit_index], difference)
    return difference_E
