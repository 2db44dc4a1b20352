"""From a network to a folder that ONNX Runtime serves: one graph per segment, their manifest, the policy, and the proof that they agree.

Shape suffixes: B rows, C channels, H/W pixels, S samples, K classes, E exits.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynperceiver_runtime.engines.manifest import POLICY, GraphEntry, Manifest, PolicyEntry, file_sha256
from dynperceiver_runtime.engines.onnx_runtime import OnnxRuntimeEngine
from dynperceiver_runtime.policy.exit_policy import ExitPolicy

from ...layers import copy_without_hooks
from ...models import DynPerceiver
from ..freezing import FrozenNetwork
from ..verification import compare_logits, run_exits
from .cleaning import ExportError
from .folder import check_target, new_folder, write_manifest
from .graphs import export_graphs, graph_bytes
from .preprocessing import check_preprocessing

__all__ = ['OPSETS', 'TOLERANCE', 'ExportReport', 'SegmentGraphs', 'SegmentReport', 'export', 'export_table', 'make_graphs']

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


@dataclass(frozen=True, eq=False)
class SegmentGraphs:
    """The graphs of a network's segments, in memory.

    Attributes:
        manifest: What they are.
        files: Content of each file that the manifest lists, by its name.
        segments: What is known of each.
    """

    manifest: Manifest
    files: dict[str, bytes]
    segments: tuple[SegmentReport, ...]


def make_graphs(
    frozen: FrozenNetwork, opset: int = 20, preprocessing: Mapping[str, Any] | None = None, class_names: Sequence[str] | None = None
) -> SegmentGraphs:
    """Export a frozen network to memory, and compare the graphs with it.

    Args:
        frozen: See :func:`~dynperceiver.deployment.freeze`; the graphs take images of its size and no other.
        opset: Version of ONNX's operators, in :data:`OPSETS`.
        preprocessing: What pixels go through before, for the manifest: ``mean``, ``std`` (per channel) and anything else that JSON holds.
        class_names: Names of the classes, for the manifest.

    Raises:
        ExportError: If an argument does not suit, or a graph's logits differ from the network's.
    """
    if any(side < MIN_SIDE for side in frozen.image_size):
        raise ExportError(f'image_size={frozen.image_size}: freeze the network for images of {MIN_SIDE} or more pixels in height and width')
    if opset not in OPSETS:
        raise ExportError(f'opset={opset}: pass {OPSETS[0]} to {OPSETS[-1]}; 20 is the first that has all operators of the network')
    num_classes = int(frozen.network.num_classes or 0)
    class_names = None if class_names is None else tuple(map(str, class_names))
    if class_names is not None and len(class_names) != num_classes:
        raise ExportError(f'{len(class_names)} class_names for {num_classes} classes; pass one per class in their order, or None')
    preprocessing = check_preprocessing(preprocessing or {})
    network = copy_without_hooks(frozen.network).cpu().float()
    graphs = export_graphs(network, frozen.image_size, opset)
    files = {f'segment{number}.onnx': graph_bytes(graph.model) for number, graph in enumerate(graphs, 1)}
    manifest = Manifest(
        fingerprint=frozen.fingerprint,
        image_size=frozen.image_size,
        num_frames=network.num_frames,
        num_classes=num_classes,
        segments=tuple(
            GraphEntry(file, sha256(content).hexdigest(), graph.inputs, graph.updates, graph.keeps)
            for (file, content), graph in zip(files.items(), graphs, strict=True)
        ),
        cost_gflops=frozen.cost_gflops,
        producer={name: _version(name) for name in ('dynperceiver', 'torch', 'onnx', 'onnxscript')},
        preprocessing=preprocessing,
        class_names=class_names,
    )
    difference_E = _compare(network, OnnxRuntimeEngine.from_graphs(manifest, files))
    rows = zip(files.items(), graphs, difference_E, strict=True)
    segments = tuple(SegmentReport(file, len(content), graph.num_nodes, difference) for (file, content), graph, difference in rows)
    return SegmentGraphs(manifest, files, segments)


def export(
    frozen: FrozenNetwork,
    out_dir: str | os.PathLike[str],
    policy: ExitPolicy | None = None,
    opset: int = 20,
    preprocessing: Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
) -> ExportReport:
    """Export a frozen network to a folder for serving, and compare the graphs with it.

    The folder gets a graph per segment (``segment1.onnx`` ..), ``manifest.json``, and ``policy.json`` where there is a policy. It appears
    when all is written and compared; an earlier export of that name is replaced.

    Args:
        frozen: See :func:`make_graphs`.
        out_dir: The folder.
        policy: When samples leave.
        opset: See :func:`make_graphs`.
        preprocessing: See there.
        class_names: See there.

    Returns:
        Files, their sizes, and how far the logits are from the network's.

    Raises:
        ExportError: If an argument does not suit, or a graph's logits differ from the network's.
        ExistingFileError: If the folder holds other things.
        PolicyError: If the policy was made for other weights.
    """
    num_exits = len(frozen.network.segments)
    if policy is not None:
        policy.check_checkpoint(frozen.fingerprint, 'the network')
        if policy.num_exits != num_exits:
            raise ExportError(f'the policy is for {policy.num_exits} exits, and the network has {num_exits}; make one for this network')
    check_target(Path(out_dir))  # before the minutes that exporting may take
    graphs = make_graphs(frozen, opset, preprocessing, class_names)
    manifest = graphs.manifest
    with new_folder(Path(out_dir)) as folder:
        for file, content in graphs.files.items():
            (folder / file).write_bytes(content)
        if policy is not None:
            policy.save(folder / POLICY)
            manifest = replace(manifest, policy=PolicyEntry(POLICY, file_sha256(folder / POLICY)))
        write_manifest(folder, manifest)
    return ExportReport(Path(out_dir), manifest, graphs.segments)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # on the path without being installed
        return 'unknown'


def _compare(reference: DynPerceiver, engine: OnnxRuntimeEngine) -> list[float]:
    """Difference of the logits per exit, for one sample and for three, from the network in float64, which brings no rounding of its own."""
    generator = np.random.default_rng(0)
    in_float64 = copy_without_hooks(reference).double()
    difference_E = [0.0] * engine.num_exits
    for num_samples in (1, 3):
        shape = (num_samples * engine.num_frames, 3, *engine.manifest.image_size)
        images_BCHW = generator.standard_normal(shape, dtype=np.float32)
        images = torch.from_numpy(images_BCHW)
        try:
            expected_ESK = run_exits(in_float64, images.double())
        except Exception:  # a layer that knows float32 alone
            expected_ESK = run_exits(reference, images)
        state = engine.start(images_BCHW)
        for exit_index, expected_SK in enumerate(expected_ESK):
            logits_SK, state = engine.run(exit_index, state)
            difference = compare_logits(logits_SK, expected_SK)
            if difference > TOLERANCE:
                raise ExportError(
                    f"segment {exit_index + 1}: the graph's logits differ from the network's by {difference:.3g} of the largest one, at "
                    f'{num_samples} sample{"s" if num_samples > 1 else ""}, where at most {TOLERANCE:g} is expected; try another --opset, '
                    'and check that the BatchNorm statistics are trained'
                )
            difference_E[exit_index] = max(difference_E[exit_index], difference)
    return difference_E
