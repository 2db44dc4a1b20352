"""The table of feature branches, and what it says to wrong names and widths."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from dynperceiver import build_feature_branch
from dynperceiver.feature_branches import (
    FEATURE_BRANCHES,
    FeatureBranch,
    FeatureShapes,
    feature_shapes,
    find_feature_branch,
    register_feature_branch,
)
from dynperceiver.feature_branches.base import ResidualBlock, make_divisible


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The table, which takes rows for the time of a test."""
    table = dict(FEATURE_BRANCHES)
    monkeypatch.setattr('dynperceiver.feature_branches.variants.FEATURE_BRANCHES', table)
    return table


def _branch(channels: int) -> FeatureBranch:
    return FeatureBranch(nn.Identity(), [nn.Identity()] * 4, [channels] * 5, [4, 4, 8, 16, 32])


@pytest.mark.parametrize(
    ('wrong', 'near'),
    [('resnet5O', 'resnet50'), ('RegNet-Y-800MF', 'regnet_y_800mf'), ('mobilenetv3_large', 'mobilenet_v3_large'), ('resnet', 'resnet18')],
)
def test_unknown_name_lists_near_ones_and_all(wrong: str, near: str) -> None:
    with pytest.raises(ValueError, match='unknown') as caught:
        find_feature_branch(wrong)
    text = str(caught.value)
    assert repr(wrong) in text
    assert near in text.partition('did you mean')[2].partition('?')[0]
    assert all(name in text.partition('Choose one of')[2] for name in FEATURE_BRANCHES)


def test_name_like_no_other_lists_all() -> None:
    with pytest.raises(ValueError, match='Choose one of: resnet18') as caught:
        build_feature_branch('xyz')
    assert 'did you mean' not in str(caught.value)


@pytest.mark.parametrize('width', [0.3, 0, -0.5, 0.55])
def test_resnet_width_error_says_value_rule_and_remedy(width: float) -> None:
    with pytest.raises(ValueError, match=rf'width={width} for resnet50: .* positive multiple of 8; choose a multiple of 0\.125.*0\.375'):
        build_feature_branch('resnet50', width=width)


def test_regnet_has_one_width() -> None:
    with pytest.raises(ValueError, match=r'width=0\.5 for regnet_y_400mf: RegNetY has no width multiplier; leave it at 1\.0'):
        build_feature_branch('regnet_y_400mf', width=0.5)


def test_mobilenet_width_must_be_positive() -> None:
    with pytest.raises(ValueError, match=r'width=0 for mobilenet_v3_large: a positive multiplier'):
        build_feature_branch('mobilenet_v3_large', width=0)


def test_efficientnet_lite_width_must_be_positive() -> None:
    with pytest.raises(ValueError, match=r'width=-1 for efficientnet_lite2: a positive multiplier is needed; 1\.0 is'):
        build_feature_branch('efficientnet_lite2', width=-1)


def test_unknown_shift() -> None:
    with pytest.raises(ValueError, match=r"temporal_shift='both': choose None, 'bidirectional' or 'unidirectional'"):
        build_feature_branch('resnet18', width=0.125, temporal_shift='both')


def test_registering_a_name_twice_raises() -> None:
    with pytest.raises(ValueError, match=r"named 'resnet18' exists already; .*choose another"):
        register_feature_branch(FEATURE_BRANCHES['resnet18'])


def test_a_new_row_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tiny:
        name = 'tiny'

        def build(self, width: float, temporal_shift: object, drop_path: float) -> FeatureBranch:
            return FeatureBranch(nn.Identity(), [nn.Identity()] * 4, [3] * 5, [1] * 5)

    monkeypatch.delitem(FEATURE_BRANCHES, 'tiny', raising=False)
    try:
        register_feature_branch(Tiny())
        assert build_feature_branch('tiny').channels == (3, 3, 3, 3, 3)
    finally:
        FEATURE_BRANCHES.pop('tiny', None)


@pytest.mark.parametrize('width', [1.0, 0.5])
def test_a_row_that_publishes_nothing_is_asked_what_it_builds(width: float, rows: dict[str, Any]) -> None:
    rows['tiny'] = SimpleNamespace(name='tiny', build=lambda width, *_: _branch(int(8 * width)))
    assert feature_shapes('tiny', width) == FeatureShapes((int(8 * width),) * 5, (4, 4, 8, 16, 32))


def test_a_row_that_builds_something_else_than_it_publishes(rows: dict[str, Any]) -> None:
    rows['tiny'] = SimpleNamespace(name='tiny', strides=(4, 4, 8, 16, 32), channels=lambda width: (8,) * 5, build=lambda *_: _branch(16))
    assert feature_shapes('tiny').channels == (8,) * 5
    with pytest.raises(ValueError, match=r"'tiny' publishes .*channels=\(8, 8, 8, 8, 8\).* what it built has .*channels=\(16, .* let its"):
        build_feature_branch('tiny')


def test_maps_are_chosen_by_number() -> None:
    shapes = FeatureShapes((1, 2, 3), (4, 8, 16))
    assert shapes.choose((0, 2)) == FeatureShapes((1, 3), (4, 16))


def test_a_branch_needs_four_stages() -> None:
    with pytest.raises(ValueError, match='3 stages, 5 channels and 5 strides were given'):
        FeatureBranch(nn.Identity(), [nn.Identity()] * 3, [3] * 5, [1] * 5)


def test_a_block_must_say_what_its_residual_is() -> None:
    with pytest.raises(NotImplementedError, match=r'override residual\(\)'):
        ResidualBlock().residual(None)


@pytest.mark.parametrize(('value', 'expected'), [(4, 8), (12, 16), (20, 24), (11.9, 16), (67, 64), (71, 72), (10, 16), (8.8, 8), (8.9, 16)])
def test_make_divisible(value: float, expected: int) -> None:
    assert make_divisible(value) == expected
    assert expected >= 0.9 * value
