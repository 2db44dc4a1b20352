"""What a frozen network gives is kept on disk: whole, resumed, or refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from core_models import standard_normal
from foreign_networks import VisionTransformer, lean_on
from lean_networks import lean_model
from torch import Tensor

from dynperceiver import DynPerceiver
from dynperceiver.grafting import CachedMaps, CacheForm, build_cut_network, cache_form, fill_cache, open_cache, trunk_outputs
from dynperceiver.grafting.training import as_trunk_outputs

NUM_SAMPLES, NUM_VIEWS = 7, 3


def _network(**changes: Any) -> DynPerceiver:
    return lean_model('resnet18', torch.float32, **{'frozen_trunk': True, 'max_tokens': 4, **changes})


def _images(network: DynPerceiver, view: int) -> Tensor:
    return standard_normal((NUM_SAMPLES * network.num_frames, 3, 64, 64), view).float()


class _Data:
    """Batches of each view; it can stop in the middle, and writes down what it gave."""

    def __init__(self, network: DynPerceiver, stop_after: int | None = None, num_samples: int = NUM_SAMPLES) -> None:
        self.network, self.stop_after, self.num_samples = network, stop_after, num_samples
        self.given: list[tuple[int, int]] = []

    def __call__(self, view: int, first: int) -> Iterator[tuple[Tensor, np.ndarray]]:
        images, rows = _images(self.network, view), self.network.num_frames
        for start in range(first, self.num_samples, 2):
            if self.stop_after is not None and len(self.given) == self.stop_after:
                raise KeyboardInterrupt
            after = min(start + 2, self.num_samples)
            self.given.append((view, start))
            yield images[start * rows : after * rows], np.arange(start, after) * 10


def _form(network: DynPerceiver, key: str = 'k') -> CacheForm:
    return cache_form(network, _images(network, 0)[: network.num_frames], key, NUM_VIEWS, NUM_SAMPLES)


def _filled(network: DynPerceiver, folder: Path) -> CachedMaps:
    cache, done = open_cache(folder, _form(network))
    return fill_cache(network, cache, done, _Data(network))


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize('changes', [{}, {'num_frames': 2}, {'read_maps': (0, 3)}, {'early_exits': 'probe'}], ids=str)
def test_what_is_kept(changes: dict[str, Any], tmp_path: Path) -> None:
    network = _network(**changes)
    cache = _filled(network, tmp_path / 'cache')
    assert cache.form.num_bytes == sum(path.stat().st_size for path in (tmp_path / 'cache').glob('*.bin'))
    assert len(cache) == NUM_SAMPLES
    for view in range(NUM_VIEWS):
        batch = cache.of_view(view).__getitems__([4, 1])
        with torch.no_grad():
            logits = network(_images(network, view))
        rows = network.num_frames
        chosen = [row for sample in (4, 1) for row in range(sample * rows, (sample + 1) * rows)]
        last = as_trunk_outputs(batch).logits_BK
        torch.testing.assert_close(last.unflatten(0, (2, rows)).mean(1), logits[-1][[4, 1]], rtol=2e-3, atol=2e-3)
        assert batch['labels'].tolist() == [40, 10]
        outputs = trunk_outputs(network, _images(network, view)[chosen])
        assert outputs.maps.keys() == batch['maps'].keys()
        for number, feature in outputs.maps.items():
            torch.testing.assert_close(batch['maps'][number].float(), feature, rtol=1e-3, atol=1e-3)
        with torch.no_grad():
            replayed = network(as_trunk_outputs(batch))
        for one, same in zip(replayed, logits, strict=True):
            torch.testing.assert_close(one, same[[4, 1]], rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize('lift_channels', [None, 9])
@pytest.mark.parametrize('size', [(64, 64), (176, 112), (208, 97)])
def test_exits_on_kept_maps_are_those_on_images(size: tuple[int, int], lift_channels: int | None) -> None:
    """Whatever the windows of a read are, the exit's mean is that of the map; and exits that lift pixels see each of them."""
    network = lean_model(frozen_trunk=True, lift_channels=lift_channels, max_tokens=16)
    images = standard_normal((2, 3, *size))
    with torch.no_grad():
        for one, same in zip(network(trunk_outputs(network, images)), network(images), strict=True):
            torch.testing.assert_close(one, same)


def test_maps_of_tokens(tmp_path: Path) -> None:
    network = lean_on(build_cut_network(VisionTransformer().eval(), ['blocks.0', 'blocks.2'], 64), max_tokens=4)
    cache = _filled(network, tmp_path)
    assert cache.form.shapes == {0: (17, 16), 1: (17, 16)}, '17 tokens have no even windows'
    with torch.no_grad():
        replayed, logits = network(as_trunk_outputs(cache.of_view(0).__getitems__(range(7)))), network(_images(network, 0))
    for one, same in zip(replayed, logits, strict=True):
        torch.testing.assert_close(one, same, rtol=2e-2, atol=2e-2)


def test_any_view_by_the_random_numbers_of_torch(tmp_path: Path) -> None:
    cache = _filled(_network(), tmp_path)
    views = [cache.of_view(view)[3]['logits'] for view in range(NUM_VIEWS)]
    drawn = [cache[3]['logits'] for _ in range(40)]
    seen = {view for view, one in enumerate(views) if any(torch.equal(one, other) for other in drawn)}
    assert seen == {0, 1, 2}
    assert all(any(torch.equal(one, other) for one in views) for other in drawn)
    torch.manual_seed(5)
    first = cache.__getitems__(range(7))['logits']
    torch.manual_seed(5)
    assert torch.equal(cache.__getitems__(range(7))['logits'], first)


@pytest.mark.parametrize('stop_after', [0, 1, 3, 5, 9])
@pytest.mark.parametrize('save_seconds', [0.0, 1e9])
def test_interrupted_filling_resumes(stop_after: int, save_seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = _network()
    _filled(network, tmp_path / 'whole')
    monkeypatch.setattr('dynperceiver.grafting.cached_maps.SAVE_SECONDS', save_seconds)
    cache, done = open_cache(tmp_path / 'cache', _form(network))
    with pytest.raises(KeyboardInterrupt):
        fill_cache(network, cache, done, _Data(network, stop_after))
    del cache
    cache, done = open_cache(tmp_path / 'cache', _form(_network()))
    views = 4 if save_seconds else 1  # batches after which is saved
    assert sum(done) == NUM_SAMPLES * (stop_after // 4) + (0 if views == 4 else 2 * (stop_after % 4))
    data, seen = _Data(network), []
    fill_cache(network, cache, done, data, lambda now, total: seen.append((now, total)))
    assert len(data.given) == 12 - stop_after // views * views
    assert seen[-1] == (21, 21)
    assert _contents(tmp_path / 'cache') == _contents(tmp_path / 'whole')
    again = _Data(network)
    fill_cache(network, *open_cache(tmp_path / 'cache', _form(network)), again)
    assert again.given == []


@pytest.mark.parametrize('num_samples', [5, 9])
def test_other_samples_than_were_counted(num_samples: int, tmp_path: Path) -> None:
    network = _network()
    cache, done = open_cache(tmp_path, replace(_form(network), num_samples=6))
    with pytest.raises(ValueError, match=r'the training data gave \d of their 6 samples; keep them as they are'):
        fill_cache(network, cache, done, _Data(network, num_samples=5))
    assert json.loads((tmp_path / 'cache.json').read_text())['done'] == [0, 0, 0]


def test_a_full_disk_is_seen_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple('usage', 'total used free')
    form = _form(_network())
    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: usage(10**9, 10**9, form.num_bytes - 1))
    with pytest.raises(ValueError, match=r'cache .* needs 0\.00 GB, but its disk has 0\.00 GB left; free some space') as caught:
        open_cache(tmp_path / 'cache', form)
    assert '\n' not in str(caught.value)
    assert not list((tmp_path / 'cache').iterdir())
    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: usage(10**9, 10**9, form.num_bytes))
    open_cache(tmp_path / 'cache', form)


@pytest.mark.parametrize('fails_at', [1, 2, 4])
def test_a_disk_that_fills_up(fails_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def allocate(descriptor: int, offset: int, length: int) -> None:
        calls.append(length)
        if len(calls) == fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.ftruncate(descriptor, length)

    form = _form(_network())
    with monkeypatch.context() as patch:
        patch.setattr(os, 'posix_fallocate', allocate)
        with pytest.raises(ValueError, match=r'cannot be written \(No space left on device\); free some space, choose another') as caught:
            open_cache(tmp_path / 'cache', form)
    assert '\n' not in str(caught.value)
    assert not list((tmp_path / 'cache').iterdir()), 'nothing is left, and nothing broken'
    _, done = open_cache(tmp_path / 'cache', form)
    assert done == [0, 0, 0]


def test_files_that_were_lost_are_made_anew(tmp_path: Path) -> None:
    network = _network()
    _filled(network, tmp_path)
    before = _contents(tmp_path)
    for damage in (lambda path: path.unlink(), lambda path: path.write_bytes(b'short')):
        damage(tmp_path / 'map2.bin')
        cache, done = open_cache(tmp_path, _form(network))
        assert done == [0, 0, 0]
        fill_cache(network, cache, done, _Data(network))
        assert _contents(tmp_path) == before


@pytest.mark.parametrize(
    'changes',
    [{'key': 'other'}, {'num_views': 2}, {'num_samples': 8}, {'rows': 2}, {'shapes': {2: (8, 1, 1)}}, {'num_classes': 5}],
    ids=str,
)
def test_caches_of_another_form_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    form = _form(_network())
    open_cache(tmp_path, form)
    before = _contents(tmp_path)
    with pytest.raises(ValueError, match='holds the maps of another network, other data or other views; remove it, or choose another') as e:
        open_cache(tmp_path, replace(form, **changes))
    assert str(tmp_path) in str(e.value)
    assert _contents(tmp_path) == before


@pytest.mark.parametrize('text', ['', '{', '[]', 'null', '{"key": 1}', '{"done": 3}', '{"done": ["a"]}', '\x00\x01'])
def test_a_broken_index(text: str, tmp_path: Path) -> None:
    form = _form(_network())
    open_cache(tmp_path, form)
    (tmp_path / 'cache.json').write_text(text)
    with pytest.raises(ValueError, match=r'cache\.json is no index of cached maps; remove the folder .*, and its maps are made anew') as e:
        open_cache(tmp_path, form)
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('done', [[], [7, 7], [8, 0, 0], [-1, 0, 0]])
def test_an_index_that_says_what_cannot_be(done: list[int], tmp_path: Path) -> None:
    form = _form(_network())
    open_cache(tmp_path, form)
    index = json.loads((tmp_path / 'cache.json').read_text())
    (tmp_path / 'cache.json').write_text(json.dumps({**index, 'done': done}))
    with pytest.raises(ValueError, match='holds the maps of another network'):
        open_cache(tmp_path, form)


@pytest.mark.parametrize('changes', [{'frozen_trunk': False}, {'merged_exit': True}], ids=str)
def test_only_of_a_frozen_trunk_whose_exit_is_the_last(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match='maps are cached of a frozen trunk whose own exit is the last; build with frozen_trunk=True'):
        _form(_network(**changes))


def test_large_numbers_stay_numbers(tmp_path: Path) -> None:
    network = _network()
    with torch.no_grad():
        network.exits[2].classifier.bias.fill_(1e6)
    cache = _filled(network, tmp_path)
    assert torch.equal(cache[0]['logits'].float(), torch.full((1, 7), 65504.0))
