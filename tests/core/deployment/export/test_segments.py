"""The exported folder: what is in it, that it is whole, and what is refused. Graphs are exported once and written many times."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from core_models import narrow_model
from exported_networks import CLASSES, PREPROCESSING, SHALLOW, exported, stored_graphs
from torch import nn

from dynperceiver import DynPerceiver
from dynperceiver.analysis import count_exit_costs
from dynperceiver.deployment.export import ExportError, export, export_table, make_graphs, read_preprocessing
from dynperceiver.deployment.fingerprints import fingerprint_of_network
from dynperceiver.deployment.verification import compare_logits
from dynperceiver.inference import DynamicRunner, EngineError, ExitPolicy, FrozenNetwork, PolicyError, PolicyRecord, freeze
from dynperceiver_runtime.engines.manifest import PolicyEntry, file_sha256, read_manifest

FILES = ['manifest.json', 'segment1.onnx', 'segment2.onnx', 'segment3.onnx', 'segment4.onnx']


@pytest.fixture
def exporting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Function that exports the narrow ResNet, of which the graphs are there already."""
    monkeypatch.setattr('dynperceiver.deployment.export.segments.export_graphs', stored_graphs('resnet'))

    def call(network: DynPerceiver | None = None, out_dir: Path | str = tmp_path / 'out', **settings: Any) -> Any:
        return export(_frozen() if network is None else freeze(network, (64, 64)), out_dir, **settings)

    return call


@cache
def _frozen() -> FrozenNetwork:
    return freeze(exported('resnet').network, (64, 64))


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_manifest_says_what_was_exported() -> None:
    one = exported('resnet')
    manifest = read_manifest(one.folder)
    assert manifest == one.report.manifest and _names(one.folder) == FILES
    assert manifest.fingerprint == fingerprint_of_network(one.network)
    assert (manifest.image_size, manifest.num_frames, manifest.num_classes, manifest.num_exits) == ((64, 64), 1, 5, 4)
    assert manifest.cost_gflops == tuple(cost.cost_gmacs for cost in count_exit_costs(one.network, 64, 64))
    assert (manifest.preprocessing, manifest.class_names) == (PREPROCESSING, CLASSES)
    assert manifest.producer['torch'] == torch.__version__ and set(manifest.producer) == {'dynperceiver', 'torch', 'onnx', 'onnxscript'}
    assert [entry.sha256 for entry in manifest.segments] == [file_sha256(one.folder / entry.file) for entry in manifest.segments]
    content = json.loads((one.folder / 'manifest.json').read_text())
    assert (content['format'], content['version']) == ('dynperceiver exported segments', 1)


def test_network_is_left_as_it_was(exporting: Callable[..., Any]) -> None:
    network = narrow_model(dtype=torch.float64, depth_factors=SHALLOW).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    exporting(network)
    assert network.training and all(module.training for module in network.modules())
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(after[name].dtype == one.dtype and torch.equal(after[name], one) for name, one in before.items())


def test_policy_goes_into_the_folder(exporting: Callable[..., Any], tmp_path: Path) -> None:
    fingerprint = exported('resnet').report.manifest.fingerprint
    policy = ExitPolicy((0.5, 0.6, 0.7), record=PolicyRecord(checkpoint=fingerprint))
    report = exporting(policy=policy)
    assert _names(tmp_path / 'out') == sorted([*FILES, 'policy.json'])
    entry = PolicyEntry('policy.json', file_sha256(tmp_path / 'out' / 'policy.json'))
    assert report.manifest.policy == read_manifest(tmp_path / 'out').policy == entry
    assert ExitPolicy.load(tmp_path / 'out' / 'policy.json', checkpoint=fingerprint) == policy
    assert DynamicRunner(tmp_path / 'out', backend='onnxruntime').policy == policy
    exporting()
    assert _names(tmp_path / 'out') == FILES, 'an earlier policy does not stay'
    assert read_manifest(tmp_path / 'out').policy is None


def test_policy_of_the_folder_is_the_one_exported(exporting: Callable[..., Any], tmp_path: Path) -> None:
    out, other = tmp_path / 'out', ExitPolicy((0.1, 0.2, 0.3))
    exporting(policy=ExitPolicy((0.5, 0.6, 0.7)))
    (out / 'policy.json').unlink()
    message = r'policy\.json is missing, which manifest\.json lists; copy the whole folder, or pass policy=, or export .* --policy'
    with pytest.raises(EngineError, match=message):
        DynamicRunner(out, backend='onnxruntime')
    assert DynamicRunner(out, other, backend='onnxruntime').policy == other
    other.save(out / 'policy.json')
    with pytest.raises(EngineError, match=r'policy\.json is not the policy that was exported: its SHA-256 .* or pass policy='):
        DynamicRunner(out, backend='onnxruntime')
    assert DynamicRunner(out, out / 'policy.json', backend='onnxruntime').policy == other
    exporting()
    other.save(out / 'policy.json')
    message = r'policy\.json was not exported with the graphs: manifest\.json lists no policy; pass policy=, or export .* --policy'
    with pytest.raises(EngineError, match=message):
        DynamicRunner(out, backend='onnxruntime')
    assert DynamicRunner(out, out / 'policy.json', backend='onnxruntime').policy == other


@pytest.mark.parametrize(
    ('entry', 'message'),
    [
        (7, r'"policy" of the manifest is 7, where an object, or null belongs; export'),
        ({'file': 'policy.json'}, r"the policy has \['file'\], where exactly \['file', 'sha256'\] belong"),
        ({'file': '../policy.json', 'sha256': '0' * 64}, r'"file" of the policy is .*\.\./policy\.json.*, where "policy\.json" belongs'),
        ({'file': 'policy.json', 'sha256': '0'}, r'"sha256" of the policy is .*64 hexadecimal digits'),
    ],
)
def test_what_the_manifest_says_of_the_policy_is_checked(entry: Any, message: str, tmp_path: Path) -> None:
    content = json.loads((exported('resnet').folder / 'manifest.json').read_text())
    assert content['policy'] is None
    (tmp_path / 'manifest.json').write_text(json.dumps({**content, 'policy': entry}))
    with pytest.raises(EngineError, match=message):
        read_manifest(tmp_path)


def test_policy_of_others_is_refused(exporting: Callable[..., Any], tmp_path: Path) -> None:
    other = ExitPolicy((0.5, 0.6, 0.7), record=PolicyRecord(checkpoint='sha256:' + '0' * 64))
    with pytest.raises(PolicyError, match=r'made for the weights sha256:0+, and the network has sha256:.*tools/calibrate\.py'):
        exporting(policy=other)
    with pytest.raises(ExportError, match=r'the policy is for 3 exits, and the network has 4'):
        exporting(policy=ExitPolicy((0.5, 0.6)))
    assert not _names(tmp_path)


def test_graphs_that_differ_are_not_kept(exporting: Callable[..., Any], tmp_path: Path) -> None:
    network = narrow_model(dtype=torch.float32, depth_factors=SHALLOW)
    with torch.no_grad():
        network.exits[2].classifier.bias[3] += 0.01
    with pytest.raises(ExportError, match=r"segment 3: the graph's logits differ from the network's by 0\.01 of .*at most 0\.0001 is exp"):
        exporting(network)
    assert not _names(tmp_path)


def test_graphs_in_memory_are_those_of_the_folder(exporting: Callable[..., Any], tmp_path: Path) -> None:
    report = exporting(class_names=CLASSES, preprocessing=PREPROCESSING)
    graphs = make_graphs(_frozen(), class_names=CLASSES, preprocessing=PREPROCESSING)
    assert graphs.manifest == report.manifest and graphs.segments == report.segments
    assert list(graphs.files) == FILES[1:]
    assert all((tmp_path / 'out' / file).read_bytes() == content for file, content in graphs.files.items())


def test_difference_of_logits() -> None:
    ones = torch.ones(2, 3).numpy()
    assert compare_logits(ones, ones) == 0
    assert compare_logits(ones + 0.5, ones) == 0.5
    assert compare_logits(16 * ones + 0.5, 16 * ones) == 1 / 32
    assert compare_logits(ones[:1], ones) == compare_logits(ones, ones * torch.inf) == torch.inf


def test_earlier_export_is_replaced_as_a_whole(exporting: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / 'made' / 'out'
    exporting(out_dir=out, class_names=list('abcde'))
    exporting(out_dir=str(out), class_names=list('vwxyz'))
    assert read_manifest(out).class_names == tuple('vwxyz') and _names(tmp_path / 'made') == ['out']

    def fail(*_: Any) -> None:
        assert any(path.name.startswith('.out') for path in out.parent.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr('dynperceiver.deployment.export.segments.write_manifest', fail)
    with pytest.raises(KeyboardInterrupt):
        exporting(out_dir=out, class_names=list('abcde'))
    assert read_manifest(out).class_names == tuple('vwxyz') and _names(tmp_path / 'made') == ['out']


def test_failed_move_puts_the_earlier_export_back(exporting: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    exporting(class_names=list('vwxyz'))
    rename = os.rename

    def fail(source: Path, target: Path) -> None:
        if source.name.endswith('.partial'):
            raise OSError('no space')
        rename(source, target)

    monkeypatch.setattr('os.rename', fail)
    with pytest.raises(OSError, match='no space'):
        exporting()
    assert read_manifest(tmp_path / 'out').class_names == tuple('vwxyz') and _names(tmp_path) == ['out']


def test_empty_folders_are_taken_and_others_are_not(exporting: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / 'out').mkdir()
    exporting()
    (tmp_path / 'out' / 'notes.txt').write_text('mine')
    with pytest.raises(FileExistsError, match=r'out holds other things than an export \(notes\.txt\), which would be lost; choose'):
        exporting()
    assert (tmp_path / 'out' / 'notes.txt').read_text() == 'mine'
    (tmp_path / 'file').write_text('')
    with pytest.raises(FileExistsError, match=r'file is a file, and an export is a folder'):
        exporting(out_dir=tmp_path / 'file')
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'manifest.json').write_text('{}')
    with pytest.raises(FileExistsError, match=r'other holds other things than an export \(manifest\.json\)'):
        exporting(out_dir=tmp_path / 'other')


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'opset': 12}, r'opset=12: pass 18 to 23'),
        ({'class_names': ['ant', 'bee']}, r'2 class_names for 5 classes; pass one per class'),
        ({'preprocessing': {'mean': [1, 2]}}, r'preprocessing has mean=\[1, 2\]; pass a finite number per channel'),
        ({'preprocessing': {'std': [1, 2, 0]}}, r'preprocessing has std=\[1, 2, 0\]; .* in std above 0'),
        ({'preprocessing': {'crop': torch.tensor(1)}}, r'preprocessing cannot be kept as JSON \(.*Tensor'),
    ],
)
def test_arguments_are_checked(exporting: Callable[..., Any], tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        exporting(**settings)
    assert not _names(tmp_path)


def test_images_that_are_too_small_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r'image_size=\(64, 16\): freeze the network for images of 32 or more pixels in height and width'):
        export(freeze(exported('resnet').network, (64, 16)), tmp_path / 'out')


def test_table_names_files_sizes_and_differences() -> None:
    lines = export_table(exported('resnet').report).splitlines()
    assert len(lines) == 5 and [line.split()[0] for line in lines[1:]] == FILES[1:]
    first = exported('resnet').report.segments[0]
    assert lines[1].split()[1:3] == [f'{first.num_bytes / 1e6:.2f}', str(first.num_nodes)]


def test_preprocessing_comes_from_the_data_preprocessor() -> None:
    model = nn.Module()
    assert read_preprocessing(model) == {}
    model.data_preprocessor = nn.Module()
    assert read_preprocessing(model) == {}
    model.data_preprocessor.register_buffer('mean', torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1))
    model.data_preprocessor.register_buffer('inverse_std', 1 / torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1))
    assert read_preprocessing(model) == PREPROCESSING
    model.data_preprocessor.register_buffer('std', torch.tensor([2.0, 2.0, 4.0]).view(3, 1, 1))
    assert read_preprocessing(model)['std'] == [2, 2, 4]
