"""Narrow networks of every kind, each exported once per test run, which may have several processes; an export takes seconds."""

from __future__ import annotations

import atexit
import fcntl
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shutil import rmtree
from tempfile import gettempdir

import numpy as np
import onnx_ir
import torch
from core_models import narrow_model

from dynperceiver import DynPerceiver, build_model
from dynperceiver.deployment.export import ExportReport, export
from dynperceiver.deployment.export.graphs import ExportedGraph
from dynperceiver.deployment.freezing import freeze
from dynperceiver.layers import BlockSequence

__all__ = [
    'CLASSES',
    'EXPORTED',
    'PREPROCESSING',
    'SHALLOW',
    'Exported',
    'all_logits',
    'clip_network',
    'exported',
    'random_images',
    'stored_graphs',
]

SHALLOW = (1 / 3, 1 / 3, 1 / 9, 1 / 3)
CLASSES = ('ant', 'bee', 'cat', 'dog', 'elk')
PREPROCESSING = {'mean': [123.675, 116.28, 103.53], 'std': [58.395, 57.12, 57.375]}


def _narrow(feature_branch: str) -> DynPerceiver:
    return narrow_model(feature_branch, dtype=torch.float32, depth_factors=SHALLOW)


def _without_repeats(network: DynPerceiver) -> DynPerceiver:
    """Only blocks that change a map's shape, and one that does not: every operator is there, and exporting takes half the time."""
    branch, repeats = network.feature_branch, 0
    with torch.no_grad():
        feature = branch.stem(torch.zeros(1, 3, 64, 64))
        for number, stage in enumerate(branch.stages):
            kept = []
            for block in stage:
                output = block(feature)
                repeats += output.shape == feature.shape
                if output.shape != feature.shape or repeats == 1:
                    kept.append(block)
                feature = output
            branch.stages[number] = BlockSequence(*kept)
    return network


def clip_network() -> DynPerceiver:
    """For clips of three frames, with temporal shift."""
    return narrow_model('resnet18', dtype=torch.float32, depth_factors=SHALLOW, num_frames=3, temporal_shift='bidirectional')


def _ablated() -> DynPerceiver:
    """Everything off that can be switched off."""
    torch.manual_seed(0)
    switches = dict.fromkeys(('x2z', 'z2x', 'dwc', 'fkt', 'last_z2x', 'token_mixers'), False)
    network = build_model(
        'resnet50', width=0.125, num_latents=16, depth_factors=SHALLOW, num_classes=5, early_exits='feature', dropout=0.2, **switches
    )
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


# Neither 7 nor a stride divides all of these sizes: windows of the summaries are even and uneven, of one pixel and of several.
EXPORTED: dict[str, tuple[Callable[[], DynPerceiver], tuple[int, int]]] = {
    'resnet': (lambda: _narrow('resnet18'), (64, 64)),
    'regnet': (lambda: _without_repeats(_narrow('regnet_y_400mf')), (56, 56)),
    'mobilenet': (lambda: _without_repeats(_narrow('mobilenet_v3_large')), (56, 75)),
    'efficientnet': (lambda: _without_repeats(_narrow('efficientnet_lite0')), (54, 75)),  # even and odd sides of maps, one of each
    'clips': (clip_network, (48, 48)),
    'ablated': (_ablated, (112, 64)),
}


@dataclass(frozen=True)
class Exported:
    """A network and its export.

    Attributes:
        network: The network, not folded; tests must not change it.
        report: What the export returned.
        folder: The folder; tests must not change it.
    """

    network: DynPerceiver
    report: ExportReport
    folder: Path


@cache
def _home() -> Path:
    """A folder that the processes of one test run share; the last of them to end removes it."""
    run = os.environ.get('PYTEST_XDIST_TESTRUNUID', str(os.getpid()))
    home = Path(gettempdir(), f'exported-{run}')
    home.mkdir(exist_ok=True)
    user = home / f'{os.getpid()}.user'
    user.touch()

    def leave() -> None:
        user.unlink(missing_ok=True)
        if not any(home.glob('*.user')):
            rmtree(home, ignore_errors=True)

    atexit.register(leave)
    return home


@cache
def exported(kind: str) -> Exported:
    """The export of a network of :data:`EXPORTED`, made by the first process of a test run that asks for it."""
    build, image_size = EXPORTED[kind]
    network, folder, report = build(), _home() / kind, _home() / f'{kind}.report'
    with (_home() / f'{kind}.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not report.exists():
            made = export(freeze(network, image_size), folder, preprocessing=PREPROCESSING, class_names=CLASSES)
            report.write_bytes(pickle.dumps(made))
    return Exported(network, pickle.loads(report.read_bytes()), folder)


def random_images(one: Exported, num_samples: int, seed: int = 0) -> np.ndarray:
    """Images, or frames of clips, for a network."""
    shape = (num_samples * one.network.num_frames, 3, *one.report.manifest.image_size)
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def all_logits(network: DynPerceiver, images: np.ndarray) -> list[np.ndarray]:
    """Logits of all exits from the network as it was trained."""
    with torch.no_grad():
        return [logits.numpy() for logits in network(torch.from_numpy(images))]


def stored_graphs(kind: str) -> Callable[..., list[ExportedGraph]]:
    """What may stand in for ``export_graphs``: the graphs of a network of :data:`EXPORTED`, without exporting anew."""
    one = exported(kind)
    entries = one.report.manifest.segments

    def read(network: DynPerceiver, image_size: tuple[int, int], opset: int) -> list[ExportedGraph]:
        assert image_size == one.report.manifest.image_size and opset == 20
        assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in network.modules())
        return [ExportedGraph(onnx_ir.load(one.folder / entry.file), entry.inputs, entry.updates, entry.keeps) for entry in entries]

    return read
