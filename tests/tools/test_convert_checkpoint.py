"""tools/convert_checkpoint.py: files go there and back unchanged, and what does not fit is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_action import BACKBONE

from dynperceiver import build_model, build_static_trunk
from dynperceiver.checkpoint import convert_to_reference, convert_to_trunk

Convert = Callable[..., None]


@pytest.fixture
def convert(call_tool: Callable[..., None]) -> Convert:
    """Function that runs the tool."""
    return lambda *arguments: call_tool('convert_checkpoint', *arguments)


@pytest.fixture(scope='module')
def weights() -> dict[str, torch.Tensor]:
    """Random weights under our names."""
    arguments = {key: value for key, value in BACKBONE.items() if key not in ('feature_branch', 'num_frames')}
    model = build_model(BACKBONE['feature_branch'], num_classes=5, **arguments)
    return {key: torch.rand_like(value) if value.is_floating_point() else value + 7 for key, value in model.state_dict().items()}


@pytest.fixture
def published(weights: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    """A checkpoint as the authors publish theirs; the plain weights are those of the average, plus one."""
    average = {f'module.{key}': value for key, value in convert_to_reference(weights).items()}
    plain = {key: value + 1 for key, value in average.items()}
    torch.save({'model': plain, 'model_ema': average, 'epoch': 299}, tmp_path / 'published.pth')
    return tmp_path / 'published.pth'


def read(path: Path) -> dict[str, Any]:
    checkpoint = torch.load(path, weights_only=True)
    assert list(checkpoint) == ['state_dict']
    state_dict: dict[str, Any] = checkpoint['state_dict']
    return state_dict


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert list(one) == list(other)
    for key, value in one.items():
        assert value.dtype == other[key].dtype
        torch.testing.assert_close(value, other[key], rtol=0, atol=0)


def test_published_file_goes_to_our_names_and_back(
    convert: Convert, published: Path, weights: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = published.with_name('ours.pth'), published.with_name('theirs.pth')
    convert(published, ours)
    assert_same(read(ours), weights)
    assert f'{len(weights)} tensors, ' in capsys.readouterr().out
    convert('--to-reference', ours, theirs)
    assert_same(read(theirs), convert_to_reference(weights))
    assert sorted(path.name for path in published.parent.iterdir()) == ['ours.pth', 'published.pth', 'theirs.pth']


def test_other_weights_of_the_file_can_be_taken(convert: Convert, published: Path, weights: dict[str, torch.Tensor]) -> None:
    convert(published, published.with_name('plain.pth'), '--weights', 'model')
    assert_same(read(published.with_name('plain.pth')), {key: value + 1 for key, value in weights.items()})
    with pytest.raises(SystemExit, match=r"^error: .*no weights named 'swa'; it holds: model, model_ema, epoch$"):
        convert(published, published.with_name('none.pth'), '--weights', 'swa')


def test_bare_state_dict_without_wrapper(convert: Convert, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(convert_to_reference(weights), tmp_path / 'bare.pth')
    convert(tmp_path / 'bare.pth', tmp_path / 'ours.pth')
    assert_same(read(tmp_path / 'ours.pth'), weights)


def test_network_within_a_recognizer_goes_to_the_authors_names(convert: Convert, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    state_dict = {f'backbone.{key}': value for key, value in weights.items()}
    torch.save({'state_dict': state_dict, 'meta': {'epoch': 3}}, tmp_path / 'trained.pth')
    convert('--to-reference', tmp_path / 'trained.pth', tmp_path / 'theirs.pth')
    assert_same(read(tmp_path / 'theirs.pth'), convert_to_reference(weights))


def test_keys_that_do_not_fit_are_named(convert: Convert, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    odd = {**convert_to_reference(weights), 'ema_step': torch.zeros(1), 'head.weight': torch.zeros(1)}
    torch.save(odd, tmp_path / 'odd.pth')
    with pytest.raises(SystemExit, match=rf"^error: 2 of {len(odd)} keys are not among the authors' names: ema_step, head\.weight\. "):
        convert(tmp_path / 'odd.pth', tmp_path / 'out.pth')
    assert not (tmp_path / 'out.pth').exists()


def test_converting_twice_is_refused(convert: Convert, published: Path) -> None:
    convert(published, published.with_name('ours.pth'))
    with pytest.raises(SystemExit, match=r'^error: all keys are ours already, .*; there is nothing to convert$'):
        convert(published.with_name('ours.pth'), published.with_name('again.pth'))


@pytest.mark.parametrize('cut', ['empty', 'garbage', 'half'])
def test_broken_file_is_named(convert: Convert, published: Path, cut: str) -> None:
    content = {'empty': b'', 'garbage': b'<html>404</html>' * 99, 'half': published.read_bytes()[: published.stat().st_size // 2]}[cut]
    broken = published.with_name('broken.pth')
    broken.write_bytes(content)
    with pytest.raises(SystemExit, match=r'^error: .*broken\.pth cannot be read as a checkpoint \((?s:.*); download or copy it again$'):
        convert(broken, published.with_name('out.pth'))
    assert not published.with_name('out.pth').exists()


def test_file_that_holds_something_else_is_named(convert: Convert, tmp_path: Path) -> None:
    torch.save([torch.zeros(3)], tmp_path / 'list.pth')
    with pytest.raises(SystemExit, match=r'^error: .*list\.pth holds a list, not a checkpoint; '):
        convert(tmp_path / 'list.pth', tmp_path / 'out.pth')


def test_existing_file_is_kept_unless_asked_for(convert: Convert, published: Path, weights: dict[str, torch.Tensor]) -> None:
    out = published.with_name('out.pth')
    out.write_text('precious')
    with pytest.raises(SystemExit, match=r'^error: .*out\.pth exists already; choose another name or pass --overwrite$'):
        convert(published, out)
    assert out.read_text() == 'precious'
    convert(published, out, '--overwrite')
    assert_same(read(out), weights)


def test_missing_files_and_folders_are_named(convert: Convert, published: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r'^error: checkpoint .*none\.pth is missing; '):
        convert(tmp_path / 'none.pth', tmp_path / 'out.pth')
    with pytest.raises(SystemExit, match=r'^error: checkpoint .*out\.pth cannot be written: the folder .*nowhere is missing'):
        convert(published, tmp_path / 'nowhere' / 'out.pth')


@pytest.mark.parametrize('library', ['torchvision', 'timm'])
def test_a_cnn_of_another_library_goes_to_our_names_and_back(convert: Convert, library: str, tmp_path: Path) -> None:
    ours = build_static_trunk('resnet18', width=0.125, num_classes=5).state_dict()
    theirs = convert_to_trunk(ours, library)
    torch.save(theirs, tmp_path / 'theirs.pth')
    convert(tmp_path / 'theirs.pth', tmp_path / 'ours.pth')
    assert_same(read(tmp_path / 'ours.pth'), ours)
    convert('--to', library, tmp_path / 'ours.pth', tmp_path / 'again.pth')
    assert_same(read(tmp_path / 'again.pth'), theirs)


def test_a_whole_network_has_no_names_in_other_libraries(convert: Convert, published: Path) -> None:
    with pytest.raises(SystemExit, match=r'^error: the checkpoint has more than a CNN and its classifier, for example latent_branch\.la'):
        convert('--to', 'timm', published, published.with_name('out.pth'))
