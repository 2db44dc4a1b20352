"""The data that exit policies are solved on: held out from training, and none of the test's."""

from __future__ import annotations

import ast
import hashlib
import logging
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DATASETS

from dynperceiver_runtime import UsageError

from ..data import SPLIT_SETTINGS, innermost_datasets, split_records

__all__ = [
    'check_held_out',
    'fingerprint_of_samples',
    'held_out_data_fault',
    'sample_places',
    'train_dataset_of_text',
]

NAMES = ('img_path', 'filename', 'frame_dir')  # what names the file or folder of a sample
EXAMPLE = "dataset=dict(..., part='holdout', holdout=0.1, test_mode=True)"


def check_held_out(
    cfg: Config, dataset: Any, trained_by: str | None = None, records: Sequence[Mapping[str, Any]] | None = None
) -> None:
    """Make sure that no sample of the held-out data was trained on or is tested on.

    Samples are told apart by their files. Training or test data that are not on this machine cannot be compared, which a warning says.

    Args:
        cfg: Config with the loaders of training and test.
        dataset: The held-out data.
        trained_by: Text of the config that the checkpoint was trained by, as MMEngine keeps it in ``meta``; what the training data were is
            read from there, and where it does not say, from ``cfg``.
        records: What the checkpoint keeps of the parts that it was trained on, see :class:`~dynperceiver.hooks.SplitRecordHook`. A
            checkpoint without any, whose config names no ``split_seed``, was trained on all but the last samples of every class.

    Raises:
        UsageError: If one was or is, or the data set repeats samples.
    """
    if len(dataset) != sum(map(len, innermost_datasets(dataset))):
        raise UsageError(
            f'calibration_dataloader: {type(dataset).__name__} repeats or leaves out samples; a policy is solved on each sample once; '
            'take its inner data set'
        )
    held_out = sample_places(dataset)
    trained = None if trained_by is None else train_dataset_of_text(trained_by)
    if records is None and trained is not None:
        trained = _as_before_seeds(trained)
    elif records is None and getattr(innermost_datasets(dataset)[0], 'part', None) == 'holdout':
        print_log(
            'The checkpoint keeps no config of its training: that it was trained without the held-out part is taken from this config',
            logger='current',
            level=logging.WARNING,
        )
    _check_apart(held_out, 'train', _other_places(cfg, 'train', trained, records), _remedy_of_training(dataset, cfg, trained))
    remedy = 'hold out other samples, for example a part of the training data that training leaves out'
    _check_apart(held_out, 'test', _other_places(cfg, 'test'), remedy)


def held_out_data_fault(cfg: Config) -> str | None:
    """What is wrong with ``calibration_dataloader`` of a config, its data aside; ``None`` if nothing is."""
    settings = cfg.get('calibration_dataloader')
    if not settings:
        return (
            'the config has no calibration_dataloader, the held-out data that policies are solved on; add one, in the form of '
            f'test_dataloader, with data that neither train nor test, for images for example {EXAMPLE}'
        )
    sampler = settings.get('sampler') or {}
    if sampler.get('shuffle', bool(sampler)) or settings.get('drop_last'):
        return (
            'calibration_dataloader shuffles its samples or drops the last ones; it must give each once, in a fixed order; set '
            "sampler=dict(type='mmengine.DefaultSampler', shuffle=False), and no drop_last"
        )
    if 'dataset' not in settings.dataset and not settings.dataset.get('datasets') and not settings.dataset.get('test_mode'):
        return 'calibration_dataloader puts other samples in place of broken ones, as in training; set dataset=dict(test_mode=True)'
    return None


def sample_places(dataset: Any) -> dict[str, str]:
    """Where the samples of a data set come from: absolute path of the file or folder of each, and the name under which it is known.

    Args:
        dataset: A data set, or a wrapper around some.

    Raises:
        UsageError: If its samples name no file.
    """
    return {place: name for place, name, _ in _samples(dataset)}


def fingerprint_of_samples(dataset: Any) -> str:
    """SHA-256 over names and labels of the samples, in their order; names count from the data set's folder, wherever that lies.

    Args:
        dataset: A data set, or a wrapper around some.

    Returns:
        ``'sha256:'`` and 64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for _, name, label in _samples(dataset):
        digest.update(f'{name}\t{label}\n'.encode('utf-8', 'surrogateescape'))  # file names may be no Unicode text
    return f'sha256:{digest.hexdigest()}'


def train_dataset_of_text(text: str) -> dict[str, Any] | None:
    """The training data set in the text of a config, which is read, not run.

    Args:
        text: What :attr:`mmengine.config.Config.pretty_text` gives.

    Returns:
        ``train_dataloader.dataset``; ``None`` if the text has none, or it is more than plain values.
    """
    try:
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == 'train_dataloader':
                return dict(_plain_value(node.value)['dataset'])
    except (SyntaxError, ValueError, KeyError, TypeError):
        return None
    return None


def _plain_value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call):
        if ast.unparse(node.func) != 'dict' or node.args:
            raise ValueError(f'{ast.unparse(node)} is no plain value')
        return {str(keyword.arg): _plain_value(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        return {ast.literal_eval(key): _plain_value(value) for key, value in zip(node.keys, node.values, strict=True) if key is not None}
    if isinstance(node, ast.List | ast.Tuple):
        return [_plain_value(entry) for entry in node.elts]
    return ast.literal_eval(node)


@lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def _samples(dataset: Any) -> Iterator[tuple[str, str, Any]]:
    """Place, name and label of every sample."""
    for inner in innermost_datasets(dataset):
        inner.full_init()
        root = os.path.realpath(getattr(inner, 'data_root', None) or '.') + os.sep
        for index in range(len(inner)):
            info = inner.get_data_info(index)
            key = next((key for key in NAMES if key in info), None)
            if key is None:
                raise UsageError(
                    f'{type(inner).__name__}: its samples have none of {", ".join(NAMES)}, by which held-out samples are told from others'
                )
            path, label = str(info[key]), info.get('gt_label', info.get('label'))
            if 'img_bytes' in info:  # of an archive, whose name the path begins with
                place, name = os.path.join(_real_folder(os.path.dirname(inner.ann_file)), path), path
            elif '://' in path:
                place = name = path
            else:
                place = os.path.join(_real_folder(os.path.dirname(path)), os.path.basename(path))
                name = place.removeprefix(root) if place.startswith(root) else os.path.basename(path)
            part = f' from frame {info["offset"]}' if key == 'frame_dir' and info.get('offset') else ''
            yield place + part, name + part, label


def _as_before_seeds(settings: Any) -> Any:
    """A data set of a config that names no ``split_seed``: from a version that held out the last samples of every class."""
    if isinstance(settings, list):
        return [_as_before_seeds(entry) for entry in settings]
    if not isinstance(settings, Mapping):
        return settings
    inner = {name: _as_before_seeds(value) if name in ('dataset', 'datasets') else value for name, value in settings.items()}
    split = inner.get('part', 'all') != 'all' and inner.get('holdout') is not None
    newer = any(name in inner for name in ('split_seed', 'group_pattern', 'group_column'))
    return dict(inner, split_seed=None) if split and not newer else inner


def _other_places(
    cfg: Config, split: str, settings: Mapping[str, Any] | None = None, records: Sequence[Mapping[str, Any]] | None = None
) -> dict[str, str]:
    """Samples of another split; none where its data are not here."""
    loader = cfg.get(f'{split}_dataloader')
    given = loader.dataset.to_dict() if loader else None
    first = given if settings is None else dict(settings)
    if first is None:
        return {}
    candidates = [first]
    if given is not None and 'data_root' in first and given.get('data_root') not in (None, first['data_root']):
        candidates.append(dict(first, data_root=given['data_root']))  # trained where the data lay elsewhere
    for candidate in candidates:
        try:
            dataset = DATASETS.build(candidate)
            places = sample_places(dataset)
        except FileNotFoundError:
            continue
        if records is not None:
            _warn_of_changes(records, split_records(dataset))
        return places
    print_log(
        f'The data of {split}_dataloader are not here: whether calibration_dataloader has samples of them could not be checked',
        logger='current',
        level=logging.WARNING,
    )
    return {}


def _warn_of_changes(trained: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> None:
    then, now = ([(record.get('num_samples'), record.get('digest')) for record in records] for records in (trained, found))
    if then != now:
        numbers = ['0' if not samples else ' + '.join(str(number) for number, _ in samples) for samples in (then, now)]
        print_log(
            f'The data that a part was held out of have changed since the checkpoint was trained ({numbers[0]} samples then, {numbers[1]} '
            'now, or other names or labels): some samples of calibration_dataloader may have been trained on. Restore the data, or hold '
            'out samples that the training never had',
            logger='current',
            level=logging.WARNING,
        )


def _remedy_of_training(dataset: Any, cfg: Config, trained: Mapping[str, Any] | None) -> str:
    inner = innermost_datasets(dataset)[0]
    if getattr(inner, 'part', None) != 'holdout':
        return 'hold samples out: take them out of the training data, train without them, and calibrate that checkpoint'
    wanted = {name: getattr(inner, name, default) for name, default in SPLIT_SETTINGS.items()}
    current, prefix = cfg.train_dataloader.dataset if cfg.get('train_dataloader') else {}, 'train_dataloader.dataset'
    while 'dataset' in current:
        current, prefix = current['dataset'], f'{prefix}.dataset'
    again = {'part': 'train', **_differences(wanted, current)}
    train = f'train with --cfg-options {_as_options(prefix, again)}, which leaves them out, and calibrate that checkpoint'
    while trained is not None and 'dataset' in trained:
        trained = trained['dataset']
    if trained is None or trained.get('part') != 'train':
        return train
    left_out = {name: trained.get(name, SPLIT_SETTINGS[name]) for name in _differences(wanted, trained)}
    if not left_out:
        return 'hold out other samples: those of this part lie in the training data by another way'
    options = _as_options('calibration_dataloader.dataset', left_out)
    return f'calibrate on the part that its training left out, with --cfg-options {options}; or {train}'


def _differences(wanted: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in wanted.items() if given.get(name, SPLIT_SETTINGS[name]) != value}


def _as_options(prefix: str, settings: Mapping[str, Any]) -> str:
    return ' '.join(shlex.quote(f'{prefix}.{name}={value}') for name, value in settings.items())


def _check_apart(held_out: Mapping[str, str], split: str, others: Mapping[str, str], remedy: str) -> None:
    common = [name for place, name in held_out.items() if place in others]
    if not common:
        return
    if split == 'train':
        fact, why = 'were trained on', 'on samples that it has learned the network is surer than on others'
    else:
        fact, why = 'are tested on', 'a test on samples that the policy was fitted to says nothing'
    raise UsageError(
        f'calibration_dataloader: {len(common)} of its {len(held_out)} samples {fact}, for example {common[0]}. Policies must be solved '
        f'on other samples than those of training and test; {why}. To put it right, {remedy}'
    )
