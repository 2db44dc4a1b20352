"""Held-out data: what they must not share with training and test, how they are told apart, and what the network answers to them."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from core_models import narrow_model, standard_normal
from mmengine.config import Config
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset
from torch import nn

from dynperceiver.analysis import count_exit_costs
from dynperceiver.benchmark import exit_times
from dynperceiver.benchmark.exit_times import measure_exit_ms, time_exits
from dynperceiver.calibration.held_out_data import (
    check_held_out,
    fingerprint_of_samples,
    held_out_data_fault,
    sample_places,
    train_dataset_of_text,
)
from dynperceiver.calibration.held_out_logits import HeldOutLogits, SampleForm, batch_images, collect_logits, sample_form
from dynperceiver.deployment.fingerprints import fingerprint_of_network
from dynperceiver.inference import DynamicRunner
from dynperceiver.launch import UsageError

NUM_CLASSES = 5
SIZE = (40, 48)


def settings_of(root: Path, names: list[str], labels: list[int] | None = None, folder: str = 'images') -> dict[str, Any]:
    """Config of a data set of images that need not be there; its list stands in ``root``, named by what it holds."""
    (root / folder).mkdir(parents=True, exist_ok=True)
    labels = labels or [number % NUM_CLASSES for number in range(len(names))]
    data_list = [dict(img_path=name, gt_label=label) for name, label in zip(names, labels, strict=True)]
    ann_file = f'{folder}_{"_".join(names)}_{"".join(map(str, labels))}.json'
    (root / ann_file).write_text(json.dumps(dict(metainfo={}, data_list=data_list)))
    place = dict(data_root=str(root), ann_file=ann_file, data_prefix=dict(img_path=folder))
    return dict(type='mmengine.dataset.BaseDataset', test_mode=True, **place)


def dataset_of(*args: Any, **kwargs: Any) -> BaseDataset:
    """The data set itself."""
    settings = settings_of(*args, **kwargs)
    settings.pop('type')
    return BaseDataset(**settings)


def config_of(train: dict[str, Any] | None = None, test: dict[str, Any] | None = None) -> Config:
    """A config with these data sets."""
    loaders = dict(train_dataloader=train, test_dataloader=test)
    return Config({name: None if dataset is None else dict(dataset=dataset) for name, dataset in loaders.items()})


# Loaders that a policy cannot be solved on.


def loader_config(**changes: Any) -> Config:
    loader = dict(sampler=dict(type='mmengine.DefaultSampler', shuffle=False), dataset=dict(type='x', test_mode=True), batch_size=2)
    return Config(dict(calibration_dataloader={**loader, **changes}))


def test_loader_that_can_be_used_has_no_fault() -> None:
    assert held_out_data_fault(loader_config()) is None


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (dict(sampler=dict(type='mmengine.DefaultSampler', shuffle=True)), ['shuffles', 'shuffle=False']),
        (dict(sampler=dict(type='mmengine.DefaultSampler')), ['shuffles', 'shuffle=False']),
        (dict(drop_last=True), ['drops the last ones', 'no drop_last']),
        (dict(dataset=dict(type='x')), ['in place of broken ones', 'test_mode=True']),
    ],
)
def test_loader_that_cannot_be_used(changes: dict[str, Any], words: list[str]) -> None:
    fault = held_out_data_fault(loader_config(**changes))
    assert fault is not None and all(word in fault for word in words)


@pytest.mark.parametrize('cfg', [Config(dict(a=1)), Config(dict(calibration_dataloader=None))])
def test_config_without_a_loader_says_what_to_add(cfg: Config) -> None:
    fault = held_out_data_fault(cfg)
    assert fault is not None and 'no calibration_dataloader' in fault and "part='holdout'" in fault


# Samples that were trained on, or are tested on.


def test_data_of_their_own_pass(tmp_path: Path) -> None:
    cfg = config_of(settings_of(tmp_path, ['a', 'b']), settings_of(tmp_path, ['c']))
    check_held_out(cfg, dataset_of(tmp_path, ['d', 'e']))
    other_folder = dataset_of(tmp_path, ['a', 'c'], folder='more')
    check_held_out(cfg, other_folder)


@pytest.mark.parametrize('wrapper', [None, 'mmengine.RepeatDataset'])
def test_samples_of_training_are_refused(tmp_path: Path, wrapper: str | None) -> None:
    train = settings_of(tmp_path, ['a', 'b', 'c'])
    train = train if wrapper is None else dict(type=wrapper, dataset=train, times=2)
    with pytest.raises(UsageError, match=r'2 of its 3 samples were trained on, for example images/b\. Policies .*, hold samples out'):
        check_held_out(config_of(train, settings_of(tmp_path, ['z'])), dataset_of(tmp_path, ['b', 'c', 'd']))


def test_samples_of_the_test_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'1 of its 2 samples are tested on, for example images/z\. .*right, hold out other samples'):
        check_held_out(config_of(settings_of(tmp_path, ['a']), settings_of(tmp_path, ['z'])), dataset_of(tmp_path, ['y', 'z']))


def test_the_same_files_by_another_way_are_found(tmp_path: Path) -> None:
    train = settings_of(tmp_path / 'data', ['a', 'b'])
    (tmp_path / 'link').symlink_to(tmp_path / 'data')
    with pytest.raises(UsageError, match='1 of its 2 samples were trained on'):
        check_held_out(config_of(train), dataset_of(tmp_path / 'link', ['b', 'c']))


def test_a_part_of_the_training_data_names_the_override(tmp_path: Path) -> None:
    held_out = dataset_of(tmp_path, ['b'])
    held_out.part, held_out.holdout = 'holdout', 0.1
    train = settings_of(tmp_path, ['a', 'b'])
    prefix = r'train with --cfg-options train_dataloader\.dataset\.part=train'
    with pytest.raises(UsageError, match=prefix + r' train_dataloader\.dataset\.holdout=0\.1, which'):
        check_held_out(config_of(train), held_out)


def test_what_the_checkpoint_was_trained_on_counts(tmp_path: Path) -> None:
    """Not what the config says today."""
    everything, part = settings_of(tmp_path, ['a', 'b', 'c']), settings_of(tmp_path, ['a', 'b'])
    held_out = dataset_of(tmp_path, ['c'])
    check_held_out(config_of(everything), held_out, config_of(part).pretty_text)
    with pytest.raises(UsageError, match='1 of its 1 samples were trained on'):
        check_held_out(config_of(part), held_out, config_of(everything).pretty_text)
    with pytest.raises(UsageError, match='1 of its 1 samples were trained on'):  # a text that says nothing of it
        check_held_out(config_of(everything), held_out, 'model = dict()')


def test_training_data_that_lay_elsewhere_are_found_here(tmp_path: Path) -> None:
    everything = settings_of(tmp_path, ['a', 'b', 'c'])
    text = config_of(dict(everything, data_root='/elsewhere')).pretty_text
    with pytest.raises(UsageError, match='1 of its 1 samples were trained on'):
        check_held_out(config_of(settings_of(tmp_path, ['a'])), dataset_of(tmp_path, ['c']), text)


def test_data_that_are_not_here_are_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, int]] = []
    monkeypatch.setattr('dynperceiver.calibration.held_out_data.print_log', lambda text, logger, level: said.append((text, level)))
    missing = dict(settings_of(tmp_path, ['a']), ann_file='none.json')
    check_held_out(config_of(missing), dataset_of(tmp_path, ['c']))
    ((text, level),) = said
    assert 'data of train_dataloader are not here' in text and level == logging.WARNING


def test_repeated_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'RepeatDataset repeats or leaves out samples'):
        check_held_out(config_of(), RepeatDataset(dataset_of(tmp_path, ['a']), times=2))


def test_samples_without_a_file_are_refused(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, ['a'])
    dataset.get_data_info = lambda index: dict(gt_label=0)
    with pytest.raises(UsageError, match='BaseDataset: its samples have none of img_path, filename, frame_dir'):
        sample_places(dataset)


def test_clips_within_one_folder_of_frames_differ(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, ['a', 'b'])
    dataset.get_data_info = lambda index: dict(frame_dir=str(tmp_path / 'f'), offset=16 * index, label=0)
    assert list(sample_places(dataset).values()) == ['f', 'f from frame 16']


# The text of the config that a checkpoint keeps.


def test_text_is_read_and_not_run(tmp_path: Path) -> None:
    text = f"import os\nos.mkdir('{tmp_path}/made')\n"
    text += "train_dataloader = dict(dataset=dict(a=[1, (None,)], b={'x y': -1.5}), n=os.getpid())\n"
    assert train_dataset_of_text(text) is None
    assert train_dataset_of_text(text.replace('os.getpid()', '2')) == dict(a=[1, [None]], b={'x y': -1.5})
    assert not (tmp_path / 'made').exists()


@pytest.mark.parametrize('text', ['', '(', *(f'train_dataloader = {value}' for value in ('None', 'dict(batch_size=2)', 'dict(**x)'))])
def test_text_without_training_data(text: str) -> None:
    assert train_dataset_of_text(text) is None


# Fingerprints.


def test_fingerprint_is_that_of_the_samples_wherever_they_lie(tmp_path: Path) -> None:
    first = fingerprint_of_samples(dataset_of(tmp_path / 'here', ['a', 'b']))
    assert first == fingerprint_of_samples(dataset_of(tmp_path / 'elsewhere', ['a', 'b']))
    assert first.startswith('sha256:') and len(first) == 71
    others = [
        dataset_of(tmp_path, ['a', 'c']),
        dataset_of(tmp_path, ['b', 'a']),
        dataset_of(tmp_path, ['a', 'b'], [0, 2]),
        dataset_of(tmp_path, ['a', 'b'], folder='more'),
        dataset_of(tmp_path, ['a', 'b', 'c']),
    ]
    assert len({first, *map(fingerprint_of_samples, others)}) == 6
    joined = ConcatDataset([dataset_of(tmp_path, ['a'], [0]), dataset_of(tmp_path, ['b'], [1])])
    assert fingerprint_of_samples(joined) == first


# Logits.


class Loader:
    """Batches of random images with labels, as a data preprocessor takes them."""

    def __init__(self, batches: list[torch.Tensor], num_samples: int | None = None, label: Any = None) -> None:
        self.batches, self.label = batches, label
        self.dataset = range(sum(map(len, batches)) if num_samples is None else num_samples)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        number = 0
        for images in self.batches:
            samples = []
            for _ in images:
                samples.append(dict(gt_label=number % NUM_CLASSES) if self.label is None else self.label(number))
                number += 1
            yield dict(inputs=images, data_samples=samples)


class Model(nn.Module):
    """A network with a preprocessor that halves."""

    def __init__(self, **changes: Any) -> None:
        super().__init__()
        self.backbone = narrow_model(**changes)

    @staticmethod
    def data_preprocessor(data: dict[str, Any], training: bool) -> dict[str, Any]:
        assert not training
        return dict(data, inputs=data['inputs'] / 2)


@pytest.fixture(scope='module')
def model() -> Model:
    return Model()


def images_of(count: int, seed: int = 0, size: tuple[int, int] = SIZE) -> torch.Tensor:
    return standard_normal((count, 3, *size), seed)


def test_logits_are_those_of_the_network_in_the_loaders_order(model: Model) -> None:
    batches = [images_of(3), images_of(2, 1)]
    seen: list[int] = []

    def progress(loader: Any) -> Any:
        for batch in loader:
            yield batch
            seen.append(len(batch['inputs']))

    logits = collect_logits(model.train(), Loader(batches), 'set', progress=progress)
    with torch.no_grad():
        expected = torch.stack(model.eval().backbone(torch.cat(batches) / 2)).float().numpy()
    np.testing.assert_allclose(logits.logits_ESK, expected, rtol=1e-5, atol=1e-5)
    assert logits.logits_ESK.dtype == np.float32 and logits.logits_ESK.shape == (4, 5, NUM_CLASSES) and seen == [3, 2]
    np.testing.assert_array_equal(logits.labels_S, range(5))
    assert logits.form == SampleForm(*SIZE, 1) and logits.backend == 'torch'
    assert (logits.checkpoint, logits.calibration_set) == (fingerprint_of_network(model.backbone), 'set')


@pytest.mark.parametrize('average_views', [None, 'score', 'prob'])
def test_views_of_a_video_are_averaged_as_the_model_says(average_views: str | None) -> None:
    model = Model(num_frames=2)
    if average_views is not None:
        model.average_views = average_views
    videos = standard_normal((3, 3 * 2, 3, *SIZE))
    labels = [torch.tensor([2]), torch.tensor([0]), [4]]
    logits = collect_logits(model, Loader([videos[:2], videos[2:]], label=lambda number: dict(gt_label=labels[number])), 'set')
    with torch.no_grad():
        expected_ESVK = torch.stack(model.backbone(videos.flatten(0, 1) / 2)).unflatten(1, (3, 3))
    expected = expected_ESVK.softmax(-1).mean(2).log() if average_views == 'prob' else expected_ESVK.mean(2)
    np.testing.assert_allclose(logits.logits_ESK, expected.float().numpy(), rtol=1e-5, atol=1e-5)
    assert logits.form == SampleForm(*SIZE, 3, average_views or 'score') and logits.labels_S.tolist() == [2, 0, 4]
    single = [cost.cost_gmacs for cost in count_exit_costs(model.backbone, *SIZE)]
    assert logits.form.cost_gflops(model.backbone) == pytest.approx([3 * cost for cost in single])
    assert sample_form(model, (6, 3, *SIZE)) == logits.form
    assert sample_form(model, (2, 3, *SIZE)) == sample_form(model.backbone, (2, 3, *SIZE)) == SampleForm(*SIZE, 1)
    with pytest.raises(ValueError, match=r'gives 5 frames per video, and a clip of the model has num_frames=2: .*sample that many'):
        sample_form(model.backbone, (5, 3, *SIZE))


@pytest.mark.parametrize(
    ('loader', 'message'),
    [
        (Loader([]), r'gives 0 of the 0 held-out samples'),
        (Loader([images_of(2)], num_samples=3), r'gives 2 of the 3 held-out samples'),
        (Loader([images_of(2)], num_samples=1), r'more samples than the 1 of its data set'),
        (Loader([images_of(1), images_of(1, size=(48, 48))]), r'height=48, width=48, views=1.* comes after .*height=40'),
        (Loader([images_of(1)], label=lambda number: dict(img_path='a.png')), r'a\.png has no single class; policies are'),
        (Loader([images_of(1)], label=lambda number: dict(gt_label=torch.ones(5))), r'a held-out sample has no single class'),
    ],
)
def test_loaders_that_cannot_be_used(model: Model, loader: Loader, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collect_logits(model, loader, 'set')


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, HeldOutLogits]:
    kept = HeldOutLogits(np.ones((4, 2, 3), np.float32), np.array([0, 2]), SampleForm(*SIZE, 2), 'weights', 'set', 'torch')
    kept.save(tmp_path / 'a.npz')
    return tmp_path / 'a.npz', kept


def test_kept_logits_come_back(saved: tuple[Path, HeldOutLogits]) -> None:
    path, kept = saved
    back = HeldOutLogits.load(path, 'weights', 'set', kept.form)
    np.testing.assert_array_equal(back.logits_ESK, kept.logits_ESK)
    np.testing.assert_array_equal(back.labels_S, kept.labels_S)
    assert (back.form, back.checkpoint, back.calibration_set, back.backend) == (kept.form, 'weights', 'set', 'torch')
    assert [entry.name for entry in path.parent.iterdir()] == ['a.npz']


def test_kept_logits_know_how_views_were_averaged(saved: tuple[Path, HeldOutLogits]) -> None:
    path, kept = saved
    by_prob = replace(kept, form=SampleForm(*SIZE, 2, 'prob'))
    with pytest.raises(ValueError, match=r"is of other average of views \(score\) than those of config .* \(prob\); make it"):
        HeldOutLogits.load(path, 'weights', 'set', by_prob.form)
    by_prob.save(path)
    assert HeldOutLogits.load(path, 'weights', 'set', by_prob.form).form == (*SIZE, 2, 'prob')
    with np.load(path) as arrays:
        before = {name: array for name, array in arrays.items() if name != 'average_views'}
    np.savez(path, **before)  # as files were written when logits were averaged, whatever the model said
    assert HeldOutLogits.load(path, 'weights', 'set', kept.form).form == (*SIZE, 2, 'score')
    with pytest.raises(ValueError, match='other average of views'):
        HeldOutLogits.load(path, 'weights', 'set', by_prob.form)


def test_kept_logits_of_something_else_are_refused(saved: tuple[Path, HeldOutLogits], tmp_path: Path) -> None:
    path, kept = saved
    for arguments, what in ((('w', 'set', kept.form), 'weights'), (('weights', 's', kept.form), 'samples')):
        with pytest.raises(ValueError, match=rf'a\.npz is of other {what} \(.*--save-logits'):
            HeldOutLogits.load(path, *arguments)
    with pytest.raises(ValueError, match=r'other height, width and views \(\(40, 48, 2\)\) than .*\(\(40, 48, 1\)\)'):
        HeldOutLogits.load(path, 'weights', 'set', SampleForm(*SIZE, 1))
    with pytest.raises(FileNotFoundError, match=r'none\.npz are missing; check the path'):
        HeldOutLogits.load(tmp_path / 'none.npz', 'weights', 'set', kept.form)
    np.savez(tmp_path / 'other.npz', a=1)
    path.write_bytes(path.read_bytes()[:200])
    for broken in (path, tmp_path / 'other.npz'):
        with pytest.raises(ValueError, match=r'is no file of logits \(.*make it anew'):
            HeldOutLogits.load(broken, 'weights', 'set', kept.form)


# Times.


def test_times_are_cumulative_per_sample_and_of_whole_batches(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[tuple[int, int]] = []

    def time_calls(calls: dict[str, Any], rounds: int, max_seconds: float) -> Any:
        for call in calls.values():
            result = call()
            runs.append((len(result.exit_index), int(result.exit_index.min())))
        return SimpleNamespace(rows=lambda: [SimpleNamespace(median_ms=value) for value in (8.0, 12.0, 20.0, 19.0)])

    monkeypatch.setattr(exit_times, 'time_calls', time_calls)
    times_ms, machine = time_exits(model, Loader([images_of(3)]), batch_size=4)
    assert times_ms == (2.0, 3.0, 5.0, 5.0)
    assert runs == [(4, 0), (4, 1), (4, 2), (4, 3)]
    assert machine.endswith('backend torch, batch size 4') and 'thread' in machine


def test_real_times_rise(model: Model) -> None:
    images, _ = batch_images(model, next(iter(Loader([images_of(1)]))))
    times_ms = measure_exit_ms(DynamicRunner(model), images, 1, rounds=3, max_seconds=1)
    assert list(times_ms) == sorted(times_ms) and 0 < times_ms[0] < times_ms[-1]
    with pytest.raises(ValueError, match='num_samples=0: time a batch of 1 or more'):
        measure_exit_ms(DynamicRunner(model), images, 0)
