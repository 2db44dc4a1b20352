"""Faster tests: MMEngine's data sets collect garbage whenever one is made, which takes long where all of torch is loaded."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope='module')
def _imports_are_no_garbage() -> Iterator[None]:
    gc.freeze()
    yield
    gc.unfreeze()
