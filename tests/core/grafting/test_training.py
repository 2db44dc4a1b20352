"""Training on cached maps: what changes, what resumes, and what is never looked at."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from core_models import standard_normal
from lean_networks import lean_model
from mmengine.hooks import Hook

from dynperceiver import DynPerceiver
from dynperceiver.grafting import CachedMaps, GraftTraining, cache_form, exit_logits, fill_cache, open_cache, train_on_maps

NUM_SAMPLES, BATCH = 24, 8


def _network() -> DynPerceiver:
    return lean_model('resnet18', torch.float32, frozen_trunk=True, max_tokens=4)


@pytest.fixture(scope='module')
def cache(tmp_path_factory: pytest.TempPathFactory) -> CachedMaps:
    """Maps of pictures whose brightness depends on their class."""
    network, labels = _network(), np.arange(NUM_SAMPLES) % 7
    images = standard_normal((NUM_SAMPLES, 3, 64, 64)).float() + 2 * torch.from_numpy(labels)[:, None, None, None]
    opened, done = open_cache(tmp_path_factory.mktemp('maps'), cache_form(network, images[:1], 'k', 2, NUM_SAMPLES))
    return fill_cache(network, opened, done, lambda view, first: iter([((images + 0.1 * view)[first:], labels[first:])]))


class _Killed(Exception):
    """Stands for whatever ends a training."""


class _Kill(Hook):
    """Ends a training in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """In its second batch."""
        if runner.epoch == self.epoch and batch_idx == 1:
            raise _Killed


def _trained(cache: CachedMaps, folder: Path, **changes: Any) -> dict[str, torch.Tensor]:
    network = _network()
    train_on_maps(network, cache, folder, **{**dict(epochs=3, batch_size=BATCH), **changes})
    return network.state_dict()


def _relabelled(cache: CachedMaps, labels: np.ndarray) -> CachedMaps:
    return CachedMaps(cache.folder, cache.form, {**cache.arrays, 'labels': labels})


def _equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


def test_the_latent_branch_and_the_early_exits_alone_learn(cache: CachedMaps, tmp_path: Path) -> None:
    before, after = _network().state_dict(), _trained(cache, tmp_path)
    trained = ('latent_branch.', 'exits.0.', 'exits.1.')
    for key, value in after.items():
        if key.startswith(trained):
            assert not torch.equal(value, before[key]), key
        else:
            assert torch.equal(value, before[key]), key
    assert list(tmp_path.rglob('*.log'))


def test_exits_get_better(cache: CachedMaps, tmp_path: Path) -> None:
    plain = cache.of_view(0)
    labels = torch.from_numpy(np.array(cache.arrays['labels']))
    network = _network()
    right = [float((logits.argmax(1) == labels).double().mean()) for logits in exit_logits(network, plain)[:-1]]
    train_on_maps(network, cache, tmp_path, epochs=25, batch_size=BATCH, lr=1e-2, distill_weight=0.0)
    better = [float((logits.argmax(1) == labels).double().mean()) for logits in exit_logits(network, plain)[:-1]]
    assert min(better) > 0.8 > max(right)


@torch.no_grad()
def test_logits_of_all_samples(cache: CachedMaps) -> None:
    network = _network()
    whole = exit_logits(network, cache.of_view(1))
    parts = exit_logits(network, cache.of_view(1), batch_size=5)
    assert [tuple(logits.shape) for logits in whole] == [(NUM_SAMPLES, 7)] * 3
    for one, same in zip(parts, whole, strict=True):
        torch.testing.assert_close(one, same, rtol=1e-4, atol=1e-4)
    assert torch.equal(whole[-1], torch.from_numpy(np.array(cache.arrays['logits'][1, :, 0])).float())


@pytest.mark.parametrize('epoch', [0, 1, 2])
def test_killed_and_resumed_is_as_if_it_never_was(epoch: int, cache: CachedMaps, tmp_path: Path) -> None:
    whole = _trained(cache, tmp_path / 'whole')
    with pytest.raises(_Killed):
        _trained(cache, tmp_path / 'killed', hooks=(_Kill(epoch),))
    resumed = _trained(cache, tmp_path / 'killed')
    for key, value in whole.items():
        torch.testing.assert_close(resumed[key], value, rtol=0, atol=0, msg=key)


def test_a_training_that_is_over_is_only_read(cache: CachedMaps, tmp_path: Path) -> None:
    first = _trained(cache, tmp_path)
    assert _equal(_trained(cache, tmp_path), first)


@pytest.mark.parametrize('changes', [{'unlabelled': True}, {'lr': 1e-4}, {'epochs': 1}, {'batch_size': 6}, {'seed': 3}], ids=str)
def test_other_settings_are_another_training(changes: dict[str, Any], cache: CachedMaps, tmp_path: Path) -> None:
    first = _trained(cache, tmp_path / 'same', epochs=2)
    expected = _trained(cache, tmp_path / 'other', **{'epochs': 2, **changes})
    assert not _equal(expected, first)
    assert _equal(_trained(cache, tmp_path / 'same', **{'epochs': 2, **changes}), expected), 'nothing of the first one is resumed'


def test_another_network_is_another_training(cache: CachedMaps, tmp_path: Path) -> None:
    _trained(cache, tmp_path, epochs=1)
    network = lean_model('resnet18', torch.float32, frozen_trunk=True, max_tokens=4, latent_width=8)
    train_on_maps(network, cache, tmp_path, epochs=1, batch_size=BATCH)


def test_seeds(cache: CachedMaps, tmp_path: Path) -> None:
    train = partial(_trained, cache, epochs=1)
    first = train(tmp_path / '1')
    assert _equal(first, train(tmp_path / '2'))
    assert not _equal(first, train(tmp_path / '3', seed=1))


@pytest.mark.parametrize('kind', ['none', 'random'])
def test_without_labels_none_is_looked_at(kind: str, cache: CachedMaps, tmp_path: Path) -> None:
    wrong = np.full(NUM_SAMPLES, -1) if kind == 'none' else np.random.default_rng(0).integers(0, 7, NUM_SAMPLES)
    train = partial(_trained, unlabelled=True, epochs=2)
    labelled = train(cache, tmp_path / 'labelled')
    assert _equal(labelled, train(_relabelled(cache, wrong), tmp_path / 'other'))
    assert not _equal(labelled, _network().state_dict()), 'and yet it learns'
    if kind == 'random':
        with_labels = _trained(cache, tmp_path / 'with', epochs=2)
        assert not _equal(with_labels, _trained(_relabelled(cache, wrong), tmp_path / 'with others', epochs=2))


def test_without_labels_it_comes_to_agree(cache: CachedMaps, tmp_path: Path) -> None:
    network = _network()

    def agreement() -> float:
        *early, last = exit_logits(network, cache.of_view(0))
        losses = [torch.nn.functional.kl_div(one.log_softmax(1), last.softmax(1), reduction='batchmean') for one in early]
        return float(sum(losses))

    before = agreement()
    train_on_maps(network, cache, tmp_path, epochs=10, batch_size=BATCH, unlabelled=True)
    assert agreement() < before / 2


def test_loss_terms(cache: CachedMaps) -> None:
    batch = cache.of_view(0).__getitems__(range(6))
    terms = GraftTraining(_network(), 0.5)(**batch, mode='loss')
    assert terms['loss_exit3'] == 0
    assert terms['loss_exit1'] > 0 and terms['loss_distill'] > 0
    alone = GraftTraining(_network(), 0.5, unlabelled=True)(**{**batch, 'labels': torch.full((6,), -1)}, mode='loss')
    assert [float(alone[f'loss_exit{number}']) for number in (1, 2, 3)] == [0, 0, 0]
    assert 'loss_distill' not in GraftTraining(_network(), 0.0)(**batch, mode='loss')


def test_mixed_samples(cache: CachedMaps, monkeypatch: pytest.MonkeyPatch) -> None:
    """A share of 1 mixes nothing; with a share of 0 every sample is another one, its label and the trunk's answer with it."""
    batch, network = cache.of_view(0).__getitems__(range(6)), _network().eval()
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    monkeypatch.setattr(torch, 'randperm', lambda *_, **__: order)
    swapped = {'maps': {number: feature[order] for number, feature in batch['maps'].items()}}
    swapped |= {'logits': batch['logits'][order], 'labels': batch['labels'][order]}
    plain = GraftTraining(network, label_smoothing=0.1).eval()
    mixing = GraftTraining(network, label_smoothing=0.1, mixup_alpha=0.2).eval()
    for share, same in ((1.0, batch), (0.0, swapped)):
        monkeypatch.setattr(torch.distributions.Beta, 'sample', lambda self, share=share: torch.tensor(share))
        expected, found = plain(**same, mode='loss'), mixing(**batch, mode='loss')
        for name in ('loss_exit1', 'loss_exit2', 'loss_distill'):
            torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(torch.distributions.Beta, 'sample', lambda self: torch.tensor(0.5))
    assert mixing(**batch, mode='loss')['loss_exit1'] != plain(**batch, mode='loss')['loss_exit1']
    with pytest.raises(ValueError, match='mixup_alpha=-1: pass 0 for none'):
        GraftTraining(network, mixup_alpha=-1)


@pytest.mark.parametrize('batch_size', [25, 64])
def test_fewer_samples_than_a_batch(batch_size: int, cache: CachedMaps, tmp_path: Path) -> None:
    message = f'24 training samples are fewer than a batch of {batch_size}; pass a smaller batch size, or more samples'
    with pytest.raises(ValueError, match=message):
        train_on_maps(_network(), cache, tmp_path / 'no', batch_size=batch_size)
    assert not (tmp_path / 'no').exists()


@pytest.mark.parametrize('epochs', [1, 2, 20])
def test_the_rate_goes_up_and_down_once(epochs: int, cache: CachedMaps, tmp_path: Path) -> None:
    rates = []

    class Rates(Hook):
        def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
            rates.append(runner.optim_wrapper.get_lr()['lr'][0])

    train_on_maps(_network(), cache, tmp_path, epochs=epochs, batch_size=BATCH, lr=0.01, hooks=(Rates(),))
    top = int(np.argmax(rates))
    assert len(rates) == 3 * epochs
    assert rates[0] == pytest.approx(0.0005)
    assert rates[top] == pytest.approx(0.01)
    assert top == (1 if epochs < 20 else 5)
    assert all(np.diff(rates[: top + 1]) > 0) and all(np.diff(rates[top + 1 :]) < 0)
    assert rates[-1] < 0.01 / 2 or epochs == 1
