"""Pictures of test clips: which clips, what is written under them, where they go."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmaction.structures import ActionDataSample

from dynperceiver.hooks import draw_exits
from dynperceiver_action.hooks import DrawPredictionsHook, draw_clip, draw_predictions


class Screen:
    """Stands in for a visualizer, and keeps what it is to show."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, float]] = []

    def show(self, picture: np.ndarray, win_name: str, wait_time: float) -> None:
        assert picture.dtype == np.uint8 and picture.shape[2] == 3
        self.shown.append((win_name, wait_time))


def runner(**metainfo: Any) -> Any:
    return SimpleNamespace(test_dataloader=SimpleNamespace(dataset=SimpleNamespace(metainfo=metainfo)), visualizer=Screen())


def batch(*names: str) -> dict[str, list[torch.Tensor]]:
    return dict(inputs=[torch.full((4, 3, 24, 32), 200, dtype=torch.uint8) for _ in names])


def answers(*names: str, key: str = 'filename') -> list[ActionDataSample]:
    samples = []
    for name in names:
        sample = ActionDataSample(metainfo={key: f'/videos/{name}'}).set_gt_label(1)
        sample.set_field(torch.tensor([[0.7, 0.3], [0.4, 0.6], [0.2, 0.8], [0.1, 0.9]]), 'exit_scores')
        samples.append(sample.set_pred_score(torch.tensor([0.1, 0.9])))
    return samples


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Text under each picture drawn."""
    drawn: list[list[str]] = []

    def draw(frames: np.ndarray, text: list[str], *rest: Any) -> np.ndarray:
        drawn.append(list(text))
        return draw_clip(frames, text, *rest)

    monkeypatch.setattr(draw_predictions, 'draw_clip', draw)
    return drawn


def test_label_and_every_exits_answer_stand_under_the_clip(lines: list[list[str]], tmp_path: Path) -> None:
    hook = DrawPredictionsHook(enable=True, out_dir=str(tmp_path / 'new'))
    hook.after_test_iter(runner(classes=('sit', 'run')), 0, batch('a.mp4'), answers('a.mp4'))
    exits = ['exit 1: 0 sit (0.70)', 'exit 2: 1 run (0.60)', 'exit 3: 1 run (0.80)', 'exit 4: 1 run (0.90)']
    assert lines == [['a.mp4', 'label: 1 run', *exits]]
    picture = cv2.imread(str(tmp_path / 'new' / '000000_a.png'))
    assert (picture[:24, : 4 * 32] == 200).all() and (picture[30:] < 100).any()


def test_classes_without_names_and_models_without_exits(lines: list[list[str]], tmp_path: Path) -> None:
    (sample,) = answers('frames', key='frame_dir')
    del sample.exit_scores
    DrawPredictionsHook(enable=True, out_dir=str(tmp_path)).after_test_iter(runner(), 0, batch('frames'), [sample])
    assert lines == [['frames', 'label: class 1', 'exit 1: class 1 (0.90)']]
    assert [path.name for path in tmp_path.iterdir()] == ['000000_frames.png']


@pytest.mark.parametrize(('rank', 'numbers'), [(0, [0, 6]), (1, [3])])
def test_every_third_clip_of_the_test_set_is_drawn(rank: int, numbers: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two ranks has clips 1, 3, 5 and 7."""
    monkeypatch.setattr(draw_exits, 'get_world_size', lambda: 2)
    monkeypatch.setattr(draw_exits, 'get_rank', lambda: rank)
    hook = DrawPredictionsHook(enable=True, out_dir=str(tmp_path), interval=3)
    hook.before_test_epoch(runner())
    for first in (0, 2):
        names = [f'{2 * index + rank}.mp4' for index in (first, first + 1)]
        hook.after_test_iter(runner(), first // 2, batch(*names), answers(*names))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f'{number:06d}_{number}.png' for number in numbers]


def test_pictures_are_shown_for_as_long_as_asked() -> None:
    screen, names = runner(), ('a.mp4', 'b.mp4')
    DrawPredictionsHook(enable=True, show=True, wait_time=0.5).after_test_iter(screen, 0, batch(*names), answers(*names))
    assert screen.visualizer.shown == [('a.mp4', 0.5), ('b.mp4', 0.5)]


def test_nothing_is_drawn_unless_enabled(lines: list[list[str]], tmp_path: Path) -> None:
    DrawPredictionsHook(out_dir=str(tmp_path)).after_test_iter(runner(), 0, batch('a.mp4'), answers('a.mp4'))
    assert not lines and not list(tmp_path.iterdir())


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(OSError, match=r'folder of --show-dir .*file cannot be made, since a file is in its place'):
        DrawPredictionsHook(enable=True, out_dir=str(tmp_path / 'file')).after_test_iter(runner(), 0, batch('a.mp4'), answers('a.mp4'))
    (tmp_path / '000000_a.png').mkdir()
    with pytest.raises(OSError, match=r'picture .*000000_a\.png cannot be written: it is a folder'):
        DrawPredictionsHook(enable=True, out_dir=str(tmp_path)).after_test_iter(runner(), 0, batch('a.mp4'), answers('a.mp4'))


def test_long_clips_show_frames_spread_over_the_clip() -> None:
    frames = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 40, 3), np.uint8)
    picture = draw_clip(frames, ['x'], max_frames=5)
    assert [int(picture[0, 40 * place, 0]) for place in range(5)] == [0, 5, 10, 14, 19]
