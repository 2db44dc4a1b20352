"""The data that exit policies are solved on: held out from training, and none of the test's."""

from __future__ import annotations

import ast
import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DATASETS

from dynperceiver_runtime import UserError

from ..data import innermost_datasets

__all__ = [
    'check_held_out',
    'fingerprint_of_samples',
    'held_out_data_fault',
    'sample_places',
    'train_dataset_of_text',
]

NAMES = ('img_path', 'filename', 'frame_dir')  # what names the file or folder of a sample
EXAMPLE = "dataset=dict(..., part='holdout', holdout=0.1, test_mode=True)"


def check_held_out(cfg: Config, dataset: Any, trained_by: str | None = None) -> None:
    """Make sure that no sample of the held-out data was trained on or is tested on.

    Samples are told apart by their files. Training or test data that are not on this machine cannot be compared, which a warning says.

    Args:
        cfg: Config with the loaders of training and test.
        dataset: The held-out data.
        trained_by: Text of the config that the checkpoint was trained by, as MMEngine keeps it in ``meta``; what the training data were is
            read from there, and where it does not say, from ``cfg``.

    Raises:
        UserError: If one was or is, or the data set repeats samples.
    """
    if len(dataset) != sum(map(len, innermost_datasets(dataset))):
        raise UserError(
            f'calibration_dataloader: {type(dataset).__name__} repeats or leaves out samples; a policy is solved on each sample once. '
            'Remedy: take its inner data set'
        )
    held_out = sample_places(dataset)
    trained = None if trained_by is None else train_dataset_of_text(trained_by)
    _check_apart(held_out, 'train', _other_places(cfg, 'train', trained), _remedy_of_training(dataset, cfg, trained))
    remedy = 'hold out other samples, for example a part of the training data that training leaves out'
    _check_apart(held_out, 'test', _other_places(cfg, 'test'), remedy)


def held_out_data_fault(cfg: Config) -> str | None:
    """What is wrong with ``calibration_dataloader`` of a config, its data aside; ``None`` if nothing is."""
    settings = cfg.get('calibration_dataloader')
    if not settings:
        return (
            'the config has no calibration_dataloader, the held-out data that policies are solved on. Remedy: add one, in the form of '
            f'test_dataloader, with data that neither train nor test, for images for example {EXAMPLE}'
        )
    sampler = settings.get('sampler') or {}
    if sampler.get('shuffle', bool(sampler)) or settings.get('drop_last'):
        return (
            'calibration_dataloader shuffles its samples or drops the last ones; it must give each once, in a fixed order. Remedy: '
            "sampler=dict(type='mmengine.DefaultSampler', shuffle=False), and no drop_last"
        )
    if 'dataset' not in settings.dataset and not settings.dataset.get('datasets') and not settings.dataset.get('test_mode'):
        return 'calibration_dataloader puts other samples in place of broken ones, as in training. Remedy: dataset=dict(test_mode=True)'
    return None


def sample_places(dataset: Any) -> dict[str, str]:
    """Where the samples of a data set come from: absolute path of the file or folder of each, and the name under which it is known.

    Args:
        dataset: A data set, or a wrapper around some.

    Raises:
        UserError: If its samples name no file.
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
        digest.update(f'{name}\t{label}\n'.encode())
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
                raise UserError(
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


def _other_places(cfg: Config, split: str, settings: Mapping[str, Any] | None = None) -> dict[str, str]:
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
            return sample_places(DATASETS.build(candidate))
        except FileNotFoundError:
            continue
    print_log(
        f'The data of {split}_dataloader are not here: whether calibration_dataloader has samples of them could not be checked',
        logger='current',
        level=logging.WARNING,
    )
    return {}


def _remedy_of_training(dataset: Any, cfg: Config, trained: Mapping[str, Any] | None) -> str:
    inner = innermost_datasets(dataset)[0]
    if getattr(inner, 'part', None) != 'holdout':
        return 'hold samples out: take them out of the training data, train without them, and calibrate that checkpoint'
    prefix = 'train_dataloader.dataset'
    given = trained or (cfg.train_dataloader.dataset if cfg.get('train_dataloader') else {})
    holdout = '' if given.get('holdout') == inner.holdout else f' {prefix}.holdout={inner.holdout}'
    return f'train with --cfg-options {prefix}.part=train{holdout}, which leaves them out, and calibrate that checkpoint'


def _check_apart(held_out: Mapping[str, str], split: str, others: Mapping[str, str], remedy: str) -> None:
    common = [name for place, name in held_out.items() if place in others]
    if not common:
        return
    if split == 'train':
        fact, why = 'were trained on', 'on samples that it has learned the network is surer than on others'
    else:
        fact, why = 'are tested on', 'a test on samples that the policy was fitted to says nothing'
    raise UserError(
        f'calibration_dataloader: {len(common)} of its {len(held_out)} samples {fact}, for example {common[0]}. Rule: policies are solved '
        f'on other samples than those of training and test; {why}. Remedy: {remedy}'
    )
