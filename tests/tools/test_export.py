"""tools/export.py: from a config and a checkpoint to a folder that is served. Graphs are those of ``exported_networks``."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import pytest
import torch
from exported_networks import CLASSES, PREPROCESSING, SHALLOW, all_logits, exported, random_images
from mmengine.config import Config

from dynperceiver.deployment.export.graphs import ExportedGraph
from dynperceiver.inference import ExitPolicy, PolicyRecord
from dynperceiver_runtime.engines.manifest import read_manifest

BACKBONE = dict(
    type='dynperceiver.DynPerceiver', feature_branch='resnet18', width=0.125, num_latents=16, depth_factors=SHALLOW, num_classes=5
)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Config of the narrow ResNet as a classifier, whose checkpoint stands beside it."""
    model = dict(type='dynperceiver_cls.DynPerceiverClassifier', backbone=BACKBONE)
    Config(dict(custom_imports=dict(imports=['dynperceiver_cls']), input_shape=(64, 64), model=model)).dump(tmp_path / 'tiny.py')
    state_dict = {f'backbone.{name}': tensor for name, tensor in exported('resnet').network.state_dict().items()}
    torch.save(dict(state_dict=state_dict, meta=dict(dataset_meta=dict(classes=CLASSES))), tmp_path / 'tiny.pth')
    return tmp_path / 'tiny.py'


@pytest.fixture
def export(call_tool: Callable[..., None], config: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Function that runs the tool into ``out``; returns the image sizes and opsets that graphs were asked for."""
    one, asked = exported('resnet'), []

    def stored_graphs(network: Any, image_size: tuple[int, int], opset: int) -> list[ExportedGraph]:
        asked.append((image_size, opset))
        entries = one.report.manifest.segments
        return [ExportedGraph(onnx_ir.load(one.folder / entry.file), entry.inputs, entry.updates, entry.keeps) for entry in entries]

    monkeypatch.setattr('dynperceiver.deployment.export.segments.export_graphs', stored_graphs)

    def call(*arguments: Any, checkpoint: Path | str | None = None) -> list[Any]:
        call_tool('export', config, checkpoint or config.with_suffix('.pth'), config.parent / 'out', *arguments)
        return asked

    return call


def test_folder_is_what_the_checkpoint_was(export: Callable[..., list[Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = exported('resnet')
    assert export() == [((64, 64), 20)]
    manifest = read_manifest(tmp_path / 'out')
    assert manifest.fingerprint == one.report.manifest.fingerprint
    assert (manifest.preprocessing, manifest.class_names) == (PREPROCESSING, CLASSES)
    table, _, snippet = capsys.readouterr().out.partition('Serve it')
    assert [line.split()[0] for line in table.splitlines()] == ['file', *(f'segment{number}.onnx' for number in (1, 2, 3, 4))]
    first, code = snippet.split('\n', 1)
    assert 'shape (S, 3, 64, 64)' in first
    images = random_images(one, 2)
    names: dict[str, Any] = {'images': images}
    exec(compile(textwrap.dedent(code), 'snippet', 'exec'), names)
    np.testing.assert_allclose(names['result'].logits, all_logits(one.network, images)[3], rtol=0, atol=1e-4)


def test_policy_goes_along(export: Callable[..., list[Any]], tmp_path: Path) -> None:
    policy = ExitPolicy((0.0, 0.6, 0.7), record=PolicyRecord(checkpoint=exported('resnet').report.manifest.fingerprint))
    policy.save(tmp_path / 'mine.json')
    export('--policy', tmp_path / 'mine.json', '--opset', 19)
    assert ExitPolicy.load(tmp_path / 'out' / 'policy.json') == policy


def test_size_and_opset_reach_the_graphs(export: Callable[..., list[Any]]) -> None:
    assert export('--shape', 64, 64, '--opset', 19) == [((64, 64), 19)]
    assert export('--shape', 64, '--cfg-options', 'input_shape=(32,32)')[1:] == [((64, 64), 20)]


def test_policy_of_another_checkpoint_is_refused(export: Callable[..., list[Any]], tmp_path: Path) -> None:
    ExitPolicy((0.5, 0.6, 0.7), record=PolicyRecord(checkpoint='sha256:' + '0' * 64)).save(tmp_path / 'other.json')
    with pytest.raises(SystemExit, match=r'^error: the policy was made for the weights sha256:0+, and .*tools/calibrate\.py'):
        export('--policy', tmp_path / 'other.json')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--shape', '1', '2', '3'], r'^error: --shape 1 2 3: give one number of pixels for a square'),
        (['--shape', '16'], r'^error: image_size=\(16, 16\): '),
        (['--opset', '9'], r'^error: opset=9: pass 18 to 23'),
        (['--policy', 'none.json'], r'^error: policy none\.json is missing'),
        (['--cfg-options', 'model.backbone.num_classes=None'], r'^error: DynPerceiverClassifier|^error: .*num_classes'),
        (['--cfg-options', 'model.backbone.num_classes=7'], r'(?s)^error: .*tiny\.pth does not fit .*tiny\.py: .*exits\.'),
        (['--cfg-options', 'model=None'], r'^error: .*tiny\.py has no model; pass the config of a training'),
    ],
)
def test_what_cannot_be_done_is_named(export: Callable[..., list[Any]], tmp_path: Path, flags: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        export(*flags)
    assert not (tmp_path / 'out').exists()


def test_missing_weights_are_named(export: Callable[..., list[Any]], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r'^error: checkpoint none\.pth is missing'):
        export(checkpoint='none.pth')
    state_dict = exported('resnet').network.state_dict()
    del state_dict['exits.2.classifier.bias']
    torch.save(dict(state_dict=state_dict), tmp_path / 'half.pth')
    with pytest.raises(SystemExit, match=r'(?s)^error: .*half\.pth does not fit .*tiny\.py: .*exits\.2\.classifier\.bias'):
        export(checkpoint=tmp_path / 'half.pth')
    assert not (tmp_path / 'out').exists()


def test_other_folders_are_left_alone(export: Callable[..., list[Any]], tmp_path: Path) -> None:
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'notes.txt').write_text('mine')
    with pytest.raises(SystemExit, match=r'^error: .*out holds other things than an export \(notes\.txt\)'):
        export()
