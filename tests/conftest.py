"""What all tests share: importable helpers and reproducible random numbers."""

from __future__ import annotations

import gc
import os
import random
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

# Before torch is imported, and for the processes that tests start: on networks as small as those of the tests, threads only wait for
# each other, a hundred times longer than they work where something else runs on the machine. Whoever sets a number gets it.
os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('MKL_NUM_THREADS', os.environ['OMP_NUM_THREADS'].partition(',')[0])
os.environ.setdefault('OPENBLAS_NUM_THREADS', os.environ['MKL_NUM_THREADS'])
os.environ.setdefault('OPENCV_FOR_THREADS_NUM', os.environ['MKL_NUM_THREADS'])

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / 'helpers'))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files that take longest first, so that no process is left with one of them at the end; skip what the machine lacks."""
    items.sort(key=lambda item: 'tools' not in item.path.parts)
    marked = [item for item in items if item.get_closest_marker('gpu')]
    if marked and not sys.modules['torch'].cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason='needs a CUDA device'))


def pytest_collection_finish() -> None:
    """Let MMEngine read each index of MMDetection's models once: it reads a hundred files for every ``_base_`` of MMDetection's."""
    _set_aside()
    utils = sys.modules.get('mmengine.config.utils')
    if utils is not None:
        utils.load = cache(utils.load)


def _set_aside() -> None:
    """Free what nobody needs, and hide the rest from later collections of garbage: MMEngine makes one for every data set, a second each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope='module')
def _tidied() -> Iterator[None]:
    """Let no file of tests leave work to the collector: networks, which hold on to themselves, and what is kept for others."""
    yield
    _set_aside()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Start every test from the same random state, whichever tests ran before."""
    random.seed(0)
    np.random.seed(0)
    if 'torch' in sys.modules:  # tests of tools that run before anything is installed do without
        sys.modules['torch'].manual_seed(0)


@pytest.fixture(autouse=True, scope='module')
def _own_default_scope() -> Iterator[None]:
    """Let no file of tests leave a default scope of MMEngine's registries behind, in which others would look for their names."""
    scopes = getattr(sys.modules.get('mmengine.registry'), 'DefaultScope', None)
    before = None if scopes is None else scopes._instance_dict.copy()
    yield
    scopes = getattr(sys.modules.get('mmengine.registry'), 'DefaultScope', None)
    if scopes is not None:
        scopes._instance_dict.clear()
        scopes._instance_dict.update(before or {})
