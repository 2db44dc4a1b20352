"""A feature branch alone takes its part of an image checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from core_models import NARROW_WIDTHS, narrow_model, shared_narrow_model, standard_normal
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from torch import Tensor, nn

from dynperceiver import build_feature_branch
from dynperceiver.checkpoint import ImageCheckpoint, convert_to_reference, load_image_checkpoint, read_state_dict
from dynperceiver.feature_branches import FeatureBranch

BRANCHES = ('resnet18', 'regnet_y_400mf', 'mobilenet_v3_large')


class Trunk(BaseModule):
    """A model of another project around a feature branch."""

    def __init__(self, feature_branch: FeatureBranch, init_cfg: dict[str, str] | None = None) -> None:
        super().__init__(init_cfg)
        self.feature_branch = feature_branch


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is written to the current logger."""
    written: list[str] = []
    monkeypatch.setattr(MMLogger.get_current_instance(), 'log', lambda _level, message, *_args, **_kwargs: written.append(message))
    return written


def _branch(name: str = 'resnet18', num_stages: int = 4, width: float | None = None) -> FeatureBranch:
    branch = build_feature_branch(name, width=NARROW_WIDTHS.get(name, 1.0) if width is None else width).double().eval()
    branch.drop_stages(num_stages)
    return branch


def _weights(name: str = 'resnet18') -> dict[str, Tensor]:
    return shared_narrow_model(name).state_dict()


def _assert_loaded(branch: FeatureBranch, name: str = 'resnet18') -> None:
    whole = shared_narrow_model(name).feature_branch.state_dict()
    for key, value in branch.state_dict().items():
        assert torch.equal(value, whole[key]), key


@pytest.mark.parametrize('name', BRANCHES)
@pytest.mark.parametrize('whose', ['ours', 'authors', 'detector'])
def test_from_a_checkpoint_of_the_whole_network(name: str, whose: str, tmp_path: Path, lines: list[str]) -> None:
    weights = _weights(name)
    checkpoint = {
        'ours': {'state_dict': weights},
        'authors': {'model': convert_to_reference(weights)},
        'detector': {'state_dict': {f'backbone.network.{key}': value for key, value in weights.items()} | {'neck.x': torch.ones(1)}},
    }[whose]
    torch.save(checkpoint, tmp_path / 'image.pth')
    trunk = Trunk(_branch(name), {'type': 'dynperceiver.ImageCheckpoint', 'checkpoint': str(tmp_path / 'image.pth')})
    trunk.init_weights()
    _assert_loaded(trunk.feature_branch, name)
    left_out = {key for key in weights if not key.startswith('feature_branch.')}
    logged = next(line for line in lines if 'left out' in line)
    assert f'image.pth: {len(left_out)} tensors left out, since the model is a feature branch alone: ' in logged
    assert set(logged.partition('alone: ')[2].split(', ')) == left_out
    assert any(line.endswith(f'image.pth: {len(weights) - len(left_out)} tensors loaded') for line in lines)
    images = standard_normal((1, 3, 32, 32))
    with torch.no_grad():
        for given, same in zip(trunk.feature_branch(images), shared_narrow_model(name).feature_branch(images), strict=True):
            assert torch.equal(given, same)


@pytest.mark.parametrize('prefix', ['', 'backbone.', 'module.backbone.'])
def test_from_its_own_checkpoint(prefix: str, tmp_path: Path, lines: list[str]) -> None:
    source = Trunk(shared_narrow_model('resnet18').feature_branch)
    weights = {prefix + key: value for key, value in source.state_dict().items()} | {'neck.x.weight': torch.ones(1)}
    torch.save({'state_dict': weights, 'meta': {}}, tmp_path / 'trunk.pth')
    read = read_state_dict(tmp_path / 'trunk.pth')
    assert set(read) == set(source.state_dict())
    branch = _branch()
    assert load_image_checkpoint(branch, read, 'trunk.pth') == []
    _assert_loaded(branch)
    assert lines[-1] == f'trunk.pth: {len(read)} tensors loaded'
    assert not [line for line in lines if 'left out' in line]


@pytest.mark.parametrize('num_stages', [0, 1, 3])
def test_dropped_stages_are_named(num_stages: int, lines: list[str]) -> None:
    weights = {key: value for key, value in _weights().items() if key.startswith('feature_branch.')}
    branch = _branch(num_stages=num_stages)
    skipped = load_image_checkpoint(branch, weights)
    _assert_loaded(branch)
    assert {int(key.split('.')[2]) for key in skipped} == set(range(num_stages, 4))
    assert set(skipped) == set(weights) - {f'feature_branch.{key}' for key in branch.state_dict()}
    assert lines[0].endswith(', '.join(skipped))


@pytest.mark.parametrize(
    ('given', 'width', 'fact'),
    [
        ('resnet18', 0.25, r'width: 100 tensors of another shape, or not in the model \(stem\.0\.weight, .*, \.\.\.\);'),
        ('resnet34', 0.125, r'width: 96 tensors of another shape, or not in the model \(stages\.0\.2\.'),
        ('mobilenet_v3_large', 0.25, r'\d tensors not in the checkpoint \(stem\..*\); \d+ tensors of another shape, or not in'),
    ],
    ids=['width', 'depth', 'architecture'],
)
def test_another_trunk_is_refused(given: str, width: float, fact: str) -> None:
    weights = {f'feature_branch.{key}': value for key, value in _branch(given, width=width).state_dict().items()}
    branch = _branch()
    before = {key: value.clone() for key, value in branch.state_dict().items()}
    with pytest.raises(ValueError, match=fact) as caught:
        load_image_checkpoint(branch, weights)
    assert str(caught.value).startswith('the checkpoint is of another feature branch or width: ')
    assert str(caught.value).endswith('use a checkpoint of the same feature_branch and width')
    assert all(torch.equal(value, before[key]) for key, value in branch.state_dict().items()), 'nothing was loaded'


def test_a_checkpoint_with_fewer_stages_is_refused() -> None:
    weights = {f'feature_branch.{key}': value for key, value in _branch(num_stages=3).state_dict().items()}
    with pytest.raises(ValueError, match=r'width: 30 tensors not in the checkpoint \(stages\.3\.0\.'):
        load_image_checkpoint(_branch(), weights)


def test_the_file_is_named_where_it_does_not_fit(tmp_path: Path) -> None:
    torch.save({'state_dict': _weights('mobilenet_v3_large')}, tmp_path / 'other.pth')
    with pytest.raises(ValueError, match=r'other\.pth: the checkpoint is of another feature branch or width'):
        ImageCheckpoint(str(tmp_path / 'other.pth'))(Trunk(_branch()))


def test_a_dyn_perceiver_takes_no_trunk() -> None:
    """Its latent branch would stay random."""
    weights = {f'feature_branch.{key}': value for key, value in _branch().state_dict().items()}
    with pytest.raises(ValueError, match=r'not in the checkpoint: latent_branch\.latent'):
        load_image_checkpoint(shared_narrow_model('resnet18'), weights)


def test_a_dyn_perceiver_is_not_taken_for_its_feature_branch(tmp_path: Path) -> None:
    torch.save({'state_dict': _weights()}, tmp_path / 'image.pth')
    model = narrow_model('resnet18')
    nn.init.zeros_(model.latent_branch.latent)
    ImageCheckpoint(str(tmp_path / 'image.pth'))(nn.Sequential(model))
    assert torch.equal(model.latent_branch.latent, _weights()['latent_branch.latent'])


def test_what_holds_no_feature_branch(tmp_path: Path) -> None:
    torch.save({'state_dict': {'backbone.conv1.weight': torch.ones(1)}}, tmp_path / 'resnet.pth')
    pattern = r'resnet\.pth has no weights of a Dyn-Perceiver: no key contains feature_branch\.stem\. \(the first one is backbone\.conv1'
    with pytest.raises(ValueError, match=pattern):
        read_state_dict(tmp_path / 'resnet.pth')
    with pytest.raises(ValueError, match='Sequential holds no DynPerceiver and no feature branch; put the init_cfg of type'):
        ImageCheckpoint('unread.pth')(nn.Sequential(nn.Linear(1, 1)))
