"""What all engines have in common: shapes of images, and the tables by which engines are found."""

from __future__ import annotations

import re

import pytest

from dynperceiver_runtime.engines import ENGINES, EngineError, EngineTable, OnnxRuntimeEngine
from dynperceiver_runtime.engines.base import check_images


@pytest.mark.parametrize(
    ('shape', 'num_frames', 'size'),
    [
        ((2, 3, 40, 50), 1, (40, 50)),
        ((0, 3, 40, 50), 1, (40, 50)),
        ((6, 3, 4, 5), 3, (4, 5)),
        ((2, 3, 3, 4, 5), 3, (4, 5)),
        ((2, 1, 3, 4, 5), 1, (4, 5)),
    ],
)
def test_shapes_of_images(shape: tuple[int, ...], num_frames: int, size: tuple[int, int]) -> None:
    assert check_images(shape, num_frames) == size


@pytest.mark.parametrize(
    ('shape', 'num_frames'),
    [((3, 40, 50), 1), ((2, 40, 50, 3), 1), ((4, 3, 4, 5), 3), ((2, 4, 3, 4, 5), 3), ((2, 3, 1, 4, 5), 3), ((), 1)],
)
def test_shapes_of_no_images(shape: tuple[int, ...], num_frames: int) -> None:
    with pytest.raises(EngineError, match=rf'input of shape {re.escape(str(shape))}: pass images as \(S, 3, H, W\)') as caught:
        check_images(shape, num_frames)
    assert (f'(clips, {num_frames}, 3, H, W)' in str(caught.value)) is (num_frames > 1)


def test_engines_have_names_of_their_own() -> None:
    table = EngineTable('a folder', first=OnnxRuntimeEngine)
    table.register('second', OnnxRuntimeEngine)
    assert list(table) == ['first', 'second'] and table.find('second') is OnnxRuntimeEngine
    with pytest.raises(EngineError, match=r"an engine named 'first' serves a folder already; names are unique, choose another"):
        table.register('first', OnnxRuntimeEngine)
    with pytest.raises(EngineError, match=r"backend='third' is unknown; choose 'first' or 'second'"):
        table.find('third')
    assert ENGINES.find('onnxruntime') is OnnxRuntimeEngine
