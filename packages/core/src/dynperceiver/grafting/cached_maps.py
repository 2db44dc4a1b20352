"""What a frozen network gives for its training data, kept on disk in half precision, so that a latent branch trains without running it.

Shape suffixes: V views, N samples, T frames per sample, K classes, B rows.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynperceiver_runtime import FileError, UserError
from dynperceiver_runtime.files import make_folders, reading, write_json

from ..layers import MapReader
from ..models import DynPerceiver
from ..structures import TrunkOutputs

__all__ = ['CacheForm', 'CachedMaps', 'cache_form', 'fill_cache', 'open_cache', 'trunk_outputs']

INDEX = 'cache.json'
LARGEST = 65504.0  # of half precision
SAVE_SECONDS = 5.0


@torch.inference_mode()
def trunk_outputs(network: DynPerceiver, images: Tensor) -> TrunkOutputs:
    """What the trunk gives for a batch: the maps at which something reads or exits, averaged as for a read, and its own logits.

    Maps whose sides have no even windows are kept whole: an exit takes the mean of a map, which the mean of uneven windows is not.

    Args:
        network: A network with a frozen trunk, whose own exit is the last.
        images: What it takes.

    Raises:
        UserError: For another network.
    """
    if network.exits is None or not network.frozen_trunk or network.exits.trunk_exit_index != len(network.exits) - 1:
        raise UserError('maps are cached of a frozen trunk whose own exit is the last; build with frozen_trunk=True, merged_exit=False')
    numbers = _map_numbers(network)
    *maps, last = network.feature_branch.pyramid(images, [*numbers, network.feature_branch.num_stages])
    readers = network.latent_branch.x2z
    lifts = any(getattr(head, 'lift', None) is not None for head in network.exits)  # such exits see every pixel
    kept = {}
    for number, feature in zip(numbers, maps, strict=True):
        reader = readers[number] if number < len(readers) else None
        kept[number] = reader.average(feature) if isinstance(reader, MapReader) and reader.is_even(feature) and not lifts else feature
    return TrunkOutputs(kept, network.exits[network.exits.trunk_exit_index](last))


def _map_numbers(network: DynPerceiver) -> list[int]:
    """Numbers of the maps that are read or classified before the trunk's end."""
    newest, found = -1, set()
    assert network.exits is not None
    for parts in network.segment_parts[: network.exits.trunk_exit_index]:
        for step in parts.steps:
            if step.operation in ('stem', 'cnn'):
                newest = step.stage
            elif step.operation == 'read':
                found.add(newest)
        if 'feature_BCHW' in parts.exit_reads:
            found.add(newest)
    return sorted(found)


@dataclass(frozen=True)
class CacheForm:
    """What a cache holds.

    Attributes:
        key: Fingerprint of all that its content depends on: weights, samples, pipelines, maps.
        num_views: Augmented views of each sample, the first of them without augmentation.
        num_samples: Samples, N.
        rows: Rows per sample: 1 for images, T for clips that run as frames.
        shapes: Number of a map to its shape in a row.
        num_classes: Classes, K.
    """

    key: str
    num_views: int
    num_samples: int
    rows: int
    shapes: dict[int, tuple[int, ...]]
    num_classes: int

    @property
    def num_bytes(self) -> int:
        """Size on disk."""
        numbers = sum(int(np.prod(shape)) for shape in self.shapes.values()) + self.num_classes
        return 2 * numbers * self.num_views * self.num_samples * self.rows + 8 * self.num_samples

    def arrays(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Name of each array to its shape and type."""
        rows = (self.num_views, self.num_samples, self.rows)
        maps = {f'map{number}': ((*rows, *shape), 'float16') for number, shape in self.shapes.items()}
        return {**maps, 'logits': ((*rows, self.num_classes), 'float16'), 'labels': ((self.num_samples,), 'int64')}


def cache_form(network: DynPerceiver, images: Tensor, key: str, num_views: int, num_samples: int) -> CacheForm:
    """The form of a cache, found on one sample.

    Args:
        network: See :func:`trunk_outputs`.
        images: One sample as the network takes it.
        key: See :class:`CacheForm`.
        num_views: See there.
        num_samples: See there.
    """
    outputs = trunk_outputs(network, images)
    shapes = {number: tuple(feature.shape[1:]) for number, feature in outputs.maps.items()}
    return CacheForm(key, num_views, num_samples, len(outputs.logits_BK), shapes, outputs.logits_BK.shape[1])


class CachedMaps(torch.utils.data.Dataset[dict[str, Any]]):
    """A cache as a data set: of each sample a view at random, by PyTorch's random numbers.

    Args:
        folder: Its folder.
        form: What it holds.
        arrays: Its arrays by name.
        view: The one view to take; ``None`` takes any.
    """

    def __init__(self, folder: Path, form: CacheForm, arrays: Mapping[str, np.ndarray], view: int | None = None) -> None:
        self.folder, self.form, self.arrays, self.view = folder, form, arrays, view

    def of_view(self, view: int) -> CachedMaps:
        """The same with one view of each sample, such as 0, the one without augmentation."""
        return CachedMaps(self.folder, self.form, self.arrays, view)

    def __len__(self) -> int:
        return self.form.num_samples

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        """A batch at once: ``maps`` by number and ``logits`` in half precision, a row per image or frame; ``labels`` (B,)."""
        index = np.asarray(indices)
        views = np.full(len(index), self.view or 0)
        if self.view is None:
            views = torch.randint(self.form.num_views, (len(index),)).numpy()

        def rows(name: str) -> Tensor:
            return torch.from_numpy(self.arrays[name][views, index]).flatten(0, 1)

        maps = {number: rows(f'map{number}') for number in self.form.shapes}
        return {'maps': maps, 'logits': rows('logits'), 'labels': torch.from_numpy(self.arrays['labels'][index])}


def open_cache(folder: Path, form: CacheForm) -> tuple[CachedMaps, list[int]]:
    """Open a cache of this form, or make its files; they get their whole space at once.

    Returns:
        The cache, and how many samples of each view it has.

    Raises:
        UserError: If the folder holds a cache of another form, or its disk has too little space.
    """
    made = _read_index(folder)
    wanted = asdict(form) | {'shapes': {str(number): list(shape) for number, shape in form.shapes.items()}}
    done = [0] * form.num_views
    files = {name: (folder / f'{name}.bin', int(np.prod(shape)) * np.dtype(kind).itemsize) for name, (shape, kind) in form.arrays().items()}
    if made is not None:
        done = made.pop('done')
        if made != wanted or len(done) != form.num_views or not all(0 <= count <= form.num_samples for count in done):
            raise UserError(f'{folder} holds the maps of another network, other data or other views; remove it, or choose another folder')
    is_new = made is None or not all(path.is_file() and path.stat().st_size == num_bytes for path, num_bytes in files.values())
    if is_new:
        done = [0] * form.num_views  # what is lost is made anew
        make_folders(folder, 'cache')
        (folder / INDEX).unlink(missing_ok=True)
        _take_space(folder, list(files.values()))
    arrays = {name: np.memmap(files[name][0], kind, 'r+', shape=shape) for name, (shape, kind) in form.arrays().items()}
    cache = CachedMaps(folder, form, arrays)
    if is_new:
        _write_index(cache, done)
    return cache, done


def _take_space(folder: Path, files: Sequence[tuple[Path, int]]) -> None:
    """Have the disk keep the space of all files, since one that fills up while a map of memory is written to ends the program."""
    for path, _ in files:
        path.unlink(missing_ok=True)
    total, remedy = sum(num_bytes for _, num_bytes in files), 'free some space, choose another folder, or fewer views'
    free = shutil.disk_usage(folder).free
    if free < total:
        raise FileError(f'cache {folder} needs {total / 1e9:.2f} GB, but its disk has {free / 1e9:.2f} GB left; {remedy}')
    try:
        for path, num_bytes in files:
            with open(path, 'xb') as file:
                os.posix_fallocate(file.fileno(), 0, num_bytes)
    except OSError as error:
        for path, _ in files:
            path.unlink(missing_ok=True)
        raise FileError(f'cache {folder} of {total / 1e9:.2f} GB cannot be written ({error.strerror}); {remedy}') from error


def _read_index(folder: Path) -> dict[str, Any] | None:
    path = folder / INDEX
    if not path.is_file():
        return None
    try:
        with reading(path, 'index of cached maps'), open(path, encoding='utf-8') as file:
            content: dict[str, Any] = json.load(file)
        assert all(type(count) is int for count in content['done'])
    except (ValueError, KeyError, AssertionError, TypeError) as error:
        raise UserError(f'{path} is no index of cached maps; remove the folder {folder}, and its maps are made anew') from error
    return content


def _write_index(cache: CachedMaps, done: Sequence[int]) -> None:
    for array in cache.arrays.values():
        assert isinstance(array, np.memmap)
        array.flush()
    shapes = {str(number): list(shape) for number, shape in cache.form.shapes.items()}
    content = {**asdict(replace(cache.form, shapes={})), 'shapes': shapes, 'done': list(done)}
    write_json(cache.folder / INDEX, content, 'index of cached maps')


def fill_cache(
    network: DynPerceiver,
    cache: CachedMaps,
    done: list[int],
    batches: Callable[[int, int], Iterable[tuple[Tensor, np.ndarray]]],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CachedMaps:
    """Run the network over what is missing in a cache. A run that was interrupted resumes where it stopped.

    Args:
        network: See :func:`trunk_outputs`.
        cache: See :func:`open_cache`.
        done: How many samples of each view it has; it changes.
        batches: Gives the batches of a view, from a sample on: images and class numbers (0 where there are none), in a fixed order.
        progress: Called with the samples done and their number, over all views.

    Raises:
        UserError: If there are other samples than the cache was made for.
    """
    form, saved = cache.form, time.monotonic()
    network.eval()
    for view in range(form.num_views):
        if done[view] == form.num_samples:
            continue
        for images, labels_N in batches(view, done[view]):
            first, after = done[view], done[view] + len(labels_N)
            if after > form.num_samples:
                break
            outputs = trunk_outputs(network, images)
            for number, feature in outputs.maps.items():
                _store(cache.arrays[f'map{number}'][view, first:after], feature)
            _store(cache.arrays['logits'][view, first:after], outputs.logits_BK)
            cache.arrays['labels'][first:after] = labels_N
            done[view] = after
            progress(sum(done), form.num_views * form.num_samples)
            if time.monotonic() - saved > SAVE_SECONDS:
                _write_index(cache, done)
                saved = time.monotonic()
        if done[view] != form.num_samples:
            raise UserError(f'the training data gave {done[view]} of their {form.num_samples} samples; keep them as they are while caching')
        _write_index(cache, done)
    return cache


def _store(target: np.ndarray, values: Tensor) -> None:
    rows = values.float().clamp(-LARGEST, LARGEST).half().cpu().numpy()
    target[...] = rows.reshape(target.shape)
