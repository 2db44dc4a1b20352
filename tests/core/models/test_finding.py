"""One way to find the network in a model, whatever the model is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from core_models import narrow_model
from torch import nn

from dynperceiver import build_static_trunk
from dynperceiver.checkpoint import ImageCheckpoint
from dynperceiver.deployment.folding import fold
from dynperceiver.models import NetworkError, find_network, find_networks, network_with_exits


class Classifier(nn.Module):
    """Holds a network as models of tasks do."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone


def test_the_network_is_found_at_any_depth() -> None:
    network = narrow_model()
    wrapped = nn.Sequential(Classifier(network))  # as a data-parallel or test-time-augmentation wrapper has it
    for model, name in ((network, ''), (Classifier(network), 'backbone'), (wrapped, '0.backbone')):
        assert find_networks(model) == {name: network}
        assert find_network(model) is network
        assert network_with_exits(model) is network
    assert find_network(fold(network)) is not network, 'a folded copy is a network, too'


def test_a_network_in_two_places_is_one() -> None:
    network = narrow_model()
    assert find_network(nn.ModuleList([network, network])) is network


def test_there_is_none() -> None:
    for model in (nn.Linear(1, 1), build_static_trunk('resnet18', width=0.125, num_classes=5), narrow_model().feature_branch):
        assert find_network(model) is None
        with pytest.raises(NetworkError, match=f'{type(model).__name__} holds no DynPerceiver; .* backbone is of type dynperceiver.DynPer'):
            network_with_exits(model)
    with pytest.raises(NetworkError, match='model is a str; pass a DynPerceiver, or a model that holds one'):
        network_with_exits('some/folder')  # type: ignore[arg-type]


def test_one_without_exits_is_found_but_leaves_nobody() -> None:
    backbone = narrow_model(num_classes=None)
    assert find_network(Classifier(backbone)) is backbone
    with pytest.raises(NetworkError, match=r'built without exits \(num_classes=None\), as detectors use it; build it with num_classes'):
        network_with_exits(Classifier(backbone))


def test_none_is_chosen_among_several() -> None:
    """A teacher and a student, say: whichever came first would be wrong half of the time, in silence."""
    model = nn.ModuleDict({'student': Classifier(narrow_model()), 'teacher': narrow_model()})
    assert list(find_networks(model)) == ['student.backbone', 'teacher']
    for find in (find_network, network_with_exits, ImageCheckpoint('unread.pth')):
        with pytest.raises(NetworkError, match=r'ModuleDict holds 2 DynPerceivers: student\.backbone, teacher; pass one of these modules'):
            find(model)
    trunks = nn.ModuleList([build_static_trunk('resnet18', width=0.125, num_classes=5) for _ in range(2)])
    with pytest.raises(ValueError, match='ModuleList holds no DynPerceiver and 2 feature branches; put the init_cfg'):
        ImageCheckpoint('unread.pth')(trunks)


def test_an_image_checkpoint_reaches_the_network_within(tmp_path: Path) -> None:
    source, target = narrow_model(), narrow_model()
    with torch.no_grad():
        source.latent_branch.latent += 1
    torch.save({'state_dict': source.state_dict()}, tmp_path / 'image.pth')
    ImageCheckpoint(str(tmp_path / 'image.pth'))(Classifier(target))
    assert torch.equal(target.latent_branch.latent, source.latent_branch.latent)
