"""tools/graft.py on tiny images: what it writes, that the network stays what it was, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from classification_runs import SIZE, make_digits, write_classification_config
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmengine.visualization import Visualizer
from torch import nn

from dynperceiver.checkpoint import read_checkpoint_file
from dynperceiver_runtime import DynamicRunner, ExitPolicy

TRUNK = """
calibration_dataloader = dict(batch_size=16, num_workers=0, dataset=dict(data_root='{data}'))
model = dict(
    backbone=dict(_delete_=True, type='dynperceiver.StaticTrunk', feature_branch='resnet18', width=0.125, num_classes=10),
    loss=dict(exit_weights=(1, )))
default_hooks = dict(checkpoint=dict(save_best='acc/exit1_top1'))
"""
QUICK = ('--views', '2', '--epochs', '1', '--batch-size', '8', '--num-latents', '2', '--latent-width', '8', '--backend', 'torch')


def own_network(num_classes: int = 10) -> nn.Module:
    """A network as somebody else writes it."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()),
        nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes)),
    )


@pytest.fixture(scope='module')
def files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Config and checkpoint of a trained network, and its model."""
    folder = tmp_path_factory.mktemp('graft')
    data, held_out = make_digits(folder / 'data'), make_digits(folder / 'held_out', num_train=10, num_val=12)
    config = write_classification_config(folder / 'trunk.py', data, TRUNK.format(data=held_out))
    cfg = Config.fromfile(config, format_python_code=False)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(1)
    model = MODELS.build(cfg.model).eval()
    torch.save({'state_dict': model.state_dict()}, folder / 'trunk.pth')
    return SimpleNamespace(config=config, checkpoint=folder / 'trunk.pth', model=model, folder=folder)


@pytest.fixture(autouse=True)
def _forget_runs() -> Iterator[None]:
    """Runs within the same second have the same name, by which MMEngine would hand out the log of one whose folder is gone."""
    managers = (MMLogger, MessageHub, Visualizer, DefaultScope)
    before = [manager._instance_dict.copy() for manager in managers]
    yield
    for manager, instances in zip(managers, before, strict=True):
        manager._instance_dict.clear()
        manager._instance_dict.update(instances)


def load(folder: Path) -> Any:
    """The model that was written."""
    cfg = Config.fromfile(folder / 'graft.py', format_python_code=False)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model).eval()
    state = torch.load(folder / 'graft.pth', weights_only=True)
    missing = model.load_state_dict(state['state_dict'], strict=True)
    assert not missing.missing_keys and not missing.unexpected_keys
    return model


def test_from_a_checkpoint_to_a_served_folder(
    files: Any, call_tool: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out'
    call_tool('graft', files.config, files.checkpoint, '--out-dir', out, *QUICK)
    text = capsys.readouterr().out
    assert '[1/4] maps of' in text and '[4/4] export' in text and 'beside the full network' in text
    model = load(out)
    images = torch.randn(3, 3, SIZE, SIZE)
    with torch.no_grad():
        exits, (own,) = model.backbone(images), files.model.backbone(images)
    assert len(exits) == 3 and torch.equal(exits[-1], own)
    policy = ExitPolicy.load(out / 'policy.json')
    runner = DynamicRunner(out / 'served', policy)
    result = runner(np.random.default_rng(0).standard_normal((3, 3, SIZE, SIZE), dtype=np.float32))
    assert result.logits.shape == (3, 10)
    # A second run finds the maps and the training, and the result is the same.
    before = torch.load(out / 'graft.pth', weights_only=True)['state_dict']
    call_tool('graft', files.config, files.checkpoint, '--out-dir', out, *QUICK)
    assert 'samples to run once' not in capsys.readouterr().out
    after = torch.load(out / 'graft.pth', weights_only=True)['state_dict']
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_result_goes_on_in_other_tools(files: Any, call_tool: Callable[..., None], tmp_path: Path) -> None:
    out = tmp_path / 'out'
    call_tool('graft', files.config, files.checkpoint, '--out-dir', out, *QUICK, '--unlabelled', '--no-export')
    call_tool('test', out / 'graft.py', out / 'graft.pth', '--work-dir', tmp_path / 'test')
    call_tool(
        'train', out / 'graft.py', '--work-dir', tmp_path / 'train', '--cfg-options', f'load_from={out / "graft.pth"}',
        'train_cfg.max_epochs=1',
    )  # fmt: skip
    (trained,) = (tmp_path / 'train').glob('epoch_*.pth')
    state = read_checkpoint_file(trained)['state_dict']
    before = torch.load(out / 'graft.pth', weights_only=True)['state_dict']
    changed = {key for key in before if not torch.equal(before[key], state[key])}
    assert changed and not any(key.startswith(('backbone.feature_branch.', 'backbone.exits.2.')) for key in changed)


def test_a_network_of_any_make(files: Any, call_tool: Callable[..., None], tmp_path: Path) -> None:
    torch.manual_seed(2)
    network = own_network().eval()
    torch.save(network.state_dict(), tmp_path / 'own.pth')
    options = ['--model', f'{__name__}:own_network', '--weights', tmp_path / 'own.pth', '--cuts', 'auto']
    call_tool('graft', files.config, '--out-dir', tmp_path / 'out', *options, *QUICK, '--no-export')
    model, images = load(tmp_path / 'out'), torch.randn(3, 3, SIZE, SIZE)
    with torch.no_grad():
        assert torch.equal(model.backbone(images)[-1], network(images))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (('--cuts', 'stage2', 'layer9'), r"cut 'stage2': the network has no such module"),
        (('--batch-size', '4000'), r'training samples are fewer than a batch of 4000; pass a smaller batch size'),
        (('--views', '0'), r'--views 0: pass 1 or more'),
    ],
)
def test_refusals(files: Any, call_tool: Callable[..., None], tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        call_tool('graft', files.config, files.checkpoint, '--out-dir', tmp_path / 'out', *QUICK, *options)
