"""How data sets of videos hold a part out: by lists, with groups from paths, and clips of one video together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dynperceiver.calibration.held_out_data import sample_places
from dynperceiver_action.datasets import Arid6Dataset, RawframeDataset, VideoDataset

HALVES = ('train', 'holdout')


def _videos(root: Path, lines: list[str], part: str = 'holdout', **arguments: Any) -> VideoDataset:
    (root / 'clips').mkdir(exist_ok=True)
    (root / 'list.txt').write_text(''.join(f'{line}\n' for line in lines))
    settings = dict(ann_file='list.txt', data_root=str(root), data_prefix=dict(video='clips'), pipeline=[], part=part, holdout=0.2)
    return VideoDataset(**{**settings, **arguments})


def _names(dataset: Any, key: str = 'filename') -> list[str]:
    return [Path(dataset.get_data_info(i)[key]).name for i in range(len(dataset))]


def _frames(root: Path, lines: list[str], part: str = 'holdout', **arguments: Any) -> RawframeDataset:
    (root / 'list.txt').write_text(''.join(f'{line}\n' for line in lines))
    settings = dict(ann_file='list.txt', data_root=str(root), data_prefix=dict(img=''), pipeline=[], part=part, holdout=0.2)
    return RawframeDataset(**{**settings, **arguments})


def test_videos_are_held_out_by_class(tmp_path: Path) -> None:
    lines = [f'2021-{1 + number // 10:02}-{number % 10:02}.mp4 {number % 2}' for number in range(120)]
    train, holdout = (_names(_videos(tmp_path, lines, part)) for part in HALVES)
    assert sorted(train + holdout) == sorted(line.split()[0] for line in lines)
    assert len(holdout) == 24 and sum(int(name[8:10]) % 2 for name in holdout) == 12
    assert len({name[5:7] for name in holdout}) > 8, 'of most months'
    assert set(_names(_videos(tmp_path, lines[::-1]))) == set(holdout)
    assert {name[5:7] for name in _names(_videos(tmp_path, lines, split_seed=None))} <= {'10', '11', '12'}
    assert len(_videos(tmp_path, lines, part='all')) == 120
    moved = _videos(tmp_path, [f'{tmp_path}/clips/{line}' for line in lines])
    assert set(_names(moved)) == set(holdout), 'a path is known by what follows the folder of the data'


def test_groups_of_ucf101(tmp_path: Path) -> None:
    names = [f'v_{kind}_g{group:02}_c{clip:02}.avi' for kind in ('Archery', 'Biking') for group in range(1, 26) for clip in range(1, 6)]
    lines = [f'{name} {int("Biking" in name)}' for name in names]
    train, holdout = ({name[-11:-8] for name in _names(_videos(tmp_path, lines, part, group_pattern=r'_(g\d+)_'))} for part in HALVES)
    assert not train & holdout and len(holdout) == 5
    per_class = [{name[:-8] for name in _names(_videos(tmp_path, lines, part, group_pattern=r'(.*)_c\d+'))} for part in HALVES]
    assert not per_class[0] & per_class[1] and len(per_class[1]) == 10
    single = [{name[-11:-8] for name in _names(_videos(tmp_path, lines, part))} for part in HALVES]
    assert single[0] & single[1], 'without groups they cross'


def test_scenes_of_arid6(tmp_path: Path) -> None:
    """Names are those of its training clips: class, scene, clip."""
    rows = [(label, name, scene, clip) for label, name in enumerate(('Jump', 'Run')) for scene in (1, 8, 11, 14) for clip in range(6)]
    table = 'split,label,class,file,frames\n' + 'validate,0,Jump,mp4/176.mp4,40\n'
    (tmp_path / 'labels.csv').write_text(table + ''.join(f'train,{i},{n},mp4/train/{n}/{n}_{s}_{c}.mp4,40\n' for i, n, s, c in rows))
    settings: dict[str, Any] = dict(ann_file='labels.csv', split='train', data_root=str(tmp_path), data_prefix=dict(video=''), pipeline=[])
    both = [Arid6Dataset(**settings, part=part, holdout=0.25, group_pattern=r'_(\d+)_\d+\.') for part in HALVES]
    train, holdout = ({name.split('_')[1] for name in _names(dataset)} for dataset in both)
    assert len(train) == 3 and len(holdout) == 1 and not train & holdout
    assert [len(dataset) for dataset in both] == [36, 12]


def test_raw_frames(tmp_path: Path) -> None:
    lines = [f'video{number} 30 {number % 2}' for number in range(40)]
    train, holdout = (_names(_frames(tmp_path, lines, part), 'frame_dir') for part in HALVES)
    assert len(holdout) == 8 and sorted(train + holdout) == sorted(line.split()[0] for line in lines)


def test_clips_of_one_folder_of_frames_stay_together(tmp_path: Path) -> None:
    """Neighbouring clips are nearly the same; a pattern may join folders, too."""
    lines = [f'day{number % 12 // 3}_video{number % 12} {16 * (number // 12)} 16 {number % 2}' for number in range(72)]
    both = [_frames(tmp_path, lines, part, with_offset=True) for part in HALVES]
    train, holdout = (set(_names(dataset, 'frame_dir')) for dataset in both)
    assert not train & holdout and len(train | holdout) == 12 and len(both[1]) == 6 * len(holdout)
    later = [line.replace(' 16 16 ', ' 32 16 ') for line in lines]
    assert _frames(tmp_path, later, with_offset=True).split_record()['digest'] != both[1].split_record()['digest']
    assert not sample_places(both[0]).keys() & sample_places(both[1]).keys()
    both = [_frames(tmp_path, lines, part, with_offset=True, group_pattern='^day.') for part in HALVES]
    train, holdout = ({name[:4] for name in _names(dataset, 'frame_dir')} for dataset in both)
    assert not train & holdout


@pytest.mark.parametrize(
    ('lines', 'arguments', 'text'),
    [
        (['a.mp4', 'b.mp4'], {}, r"list\.txt: part='holdout' needs one label for every sample, and 2 of 2 have"),
        (['a.mp4 0 1', 'b.mp4 1 2'], dict(multi_class=True, num_classes=3), 'and 2 of 2 have none or several'),
        (['a.mp4 0', 'b.mp4 0', 'c.mp4 1'], {}, r'list\.txt: with holdout=0\.2, classes 1 have no sample left for training \(class 1'),
        (['a_1.mp4 0', 'b.mp4 0'], dict(group_pattern=r'(.*)_\d'), r"finds no group in 1 of 2 paths, for example 'b\.mp4'"),
        (['a_1.mp4 0', 'a_2.mp4 0'], dict(group_pattern=r'(.*)_\d'), "all 2 samples have the same group, 'a'"),
        (['a.mp4 0', 'b.mp4 0'], dict(part='test'), r"part='test' must be one of \('all', 'train', 'holdout'\)"),
    ],
)
def test_lists_that_cannot_be_split(tmp_path: Path, lines: list[str], arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        _videos(tmp_path, lines, **arguments)
