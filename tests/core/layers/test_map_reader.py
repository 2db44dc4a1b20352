"""The lean read: what is averaged, in which layouts, and where positions come from."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dynperceiver.layers import IMAGE_LAYOUT, MapLayout, MapReader, pooling_factor


def _reader(layout: MapLayout = IMAGE_LAYOUT, max_tokens: int = 16) -> MapReader:
    return MapReader(8, 6, max_tokens, layout=layout).double().eval()


@pytest.mark.parametrize(
    ('side', 'factor'),
    [(1, 1), (9, 1), (10, 1), (11, 2), (14, 2), (20, 2), (21, 3), (22, 3), (25, 5), (28, 4), (56, 7), (112, 14), (23, 3)],
)
def test_factors_are_whole(side: int, factor: int) -> None:
    assert pooling_factor(side, 10) == factor


@pytest.mark.parametrize('size', [(8, 8), (7, 5), (4, 3), (12, 10), (1, 9)])
def test_means_over_windows(size: tuple[int, int]) -> None:
    reader, feature_BCHW = _reader(), torch.randn(2, 6, *size, dtype=torch.float64)
    summary = reader.summarize(feature_BCHW)
    high, wide = (pooling_factor(side, 4) for side in size)
    rows = [feature_BCHW[:, :, top : top + high].mean(2) for top in range(0, size[0], high)]
    expected = torch.stack([torch.stack([row[:, :, left : left + wide].mean(2) for left in range(0, size[1], wide)], 2) for row in rows], 2)
    torch.testing.assert_close(summary, expected)
    assert max(summary.shape[2:]) <= 4


@pytest.mark.parametrize('axes', ['BCHW', 'BHWC', 'BMC', 'BCM', 'BCTHW', 'BTHWC'])
def test_every_layout_reads_the_same(axes: str) -> None:
    """What a map is to a code is its content, in whatever order its axes stand."""
    layout = MapLayout(axes)
    first = MapLayout('BC' + ''.join(letter for letter in axes if letter not in 'BC'))
    sides = (5, 9, 12)[: layout.num_sides] if layout.num_sides > 1 else (30,)
    code, feature = torch.randn(2, 3, 8, dtype=torch.float64), torch.randn(2, 6, *sides, dtype=torch.float64)
    reader, same = _reader(layout), _reader(first)
    same.load_state_dict(reader.state_dict())
    turned = layout.from_channels_first(feature)
    assert turned.shape[layout.axes.index('C')] == 6
    assert torch.equal(layout.channels_first(turned), feature)
    assert torch.equal(reader(code, turned), same(code, feature))
    torch.testing.assert_close(layout.mean(turned), feature.flatten(2).mean(2))
    averaged = reader.average(turned)
    assert averaged.shape[layout.axes.index('C')] == 6
    assert averaged.numel() < turned.numel()
    assert torch.equal(reader.average(averaged), averaged)
    assert torch.equal(reader(code, averaged), reader(code, turned))


def test_tokens_of_clips_are_counted_per_frame() -> None:
    reader = _reader(MapLayout('BCTHW'), 16)
    assert reader.summarize(torch.randn(1, 6, 16, 8, 8).double()).shape == (1, 6, 8, 4, 4)
    assert reader.summarize(torch.randn(1, 6, 4, 4, 4).double()).shape == (1, 6, 4, 4, 4)


def test_positions_are_those_learned_or_resized() -> None:
    reader = _reader()
    torch.testing.assert_close(reader.positions((4, 4)), reader.position.flatten(2).transpose(1, 2), rtol=0, atol=0)
    resized = F.interpolate(reader.position, size=(3, 2), mode='bilinear', align_corners=False)
    torch.testing.assert_close(reader.positions((3, 2)), resized.flatten(2).transpose(1, 2), rtol=0, atol=0)
    assert reader.positions((1, 1)).shape == (1, 1, 8)


def test_where_a_token_stands_matters() -> None:
    reader = _reader()
    with torch.no_grad():
        reader.position.normal_()
    code, feature_BCHW = torch.randn(2, 3, 8, dtype=torch.float64), torch.randn(2, 6, 4, 4, dtype=torch.float64)
    assert not torch.allclose(reader(code, feature_BCHW), reader(code, feature_BCHW.flip(3)))
    with torch.no_grad():
        reader.position.zero_()
    torch.testing.assert_close(reader(code, feature_BCHW), reader(code, feature_BCHW.flip(3)))


@pytest.mark.parametrize('axes', ['', 'CBHW', 'BHW', 'BCCHW', 'BCHH', 'BCTHWD', 'HWBC'])
def test_strange_layouts(axes: str) -> None:
    with pytest.raises(ValueError, match=rf'layout={axes!r}: pass B, one C and up to three other letters, for example BCHW'):
        MapLayout(axes)


@pytest.mark.parametrize('max_tokens', [0, -1])
def test_no_tokens(max_tokens: int) -> None:
    with pytest.raises(ValueError, match=f'max_tokens={max_tokens}: pass the number of tokens'):
        MapReader(8, 6, max_tokens)


def test_heads_divide_the_width() -> None:
    with pytest.raises(ValueError, match='6 attention channels cannot be split over 4 heads'):
        MapReader(6, 6)
