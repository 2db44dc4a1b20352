"""The embedded demo data: reproducible, complete or not there, and only motion tells its classes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import cv2
import decord
import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import RidgeClassifier

from dynperceiver_action.demo import (
    MOTIONS,
    DemoParams,
    Pose,
    clips,
    digit_split,
    draw_clip_spec,
    is_complete,
    load_digit_images,
    make_demo_clips,
    pose_path,
    render_clip,
)

SMALL = DemoParams(seed=3, num_train=16, num_val=8, num_frames=6, size_px=36)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}


@pytest.fixture(scope='module')
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('demo') / 'deep/set'
    assert make_demo_clips(folder, SMALL, progress=False)
    return folder


def test_data_set_is_complete(demo: Path) -> None:
    assert {path.name for path in demo.iterdir()} == {
        'train',
        'val',
        'train.txt',
        'val.txt',
        'classes.txt',
        'manifest.json',
        'overview.png',
    }
    assert [path.name for path in demo.parent.iterdir()] == ['set']
    for split, count in (('train', 16), ('val', 8)):
        lines = (demo / f'{split}.txt').read_text().splitlines()
        assert Counter(int(line.split()[1]) for line in lines) == {label: count // 8 for label in range(8)}
        for line in lines:
            frames = decord.VideoReader(str(demo / line.split()[0]), num_threads=1)[:].asnumpy()
            assert frames.shape == (6, 36, 36, 3)
            assert np.abs(np.diff(frames.astype(int), axis=0)).mean() > 0.5
    assert (demo / 'classes.txt').read_text().split() == list(MOTIONS)
    manifest = json.loads((demo / 'manifest.json').read_text())
    assert manifest['params']['seed'] == 3 and {'numpy', 'opencv', 'scikit-learn'} <= set(manifest['versions'])
    sheet = cv2.imread(str(demo / 'overview.png'))
    assert sheet.shape[0] == 8 * 40 and sheet.std() > 20


def test_same_parameters_give_the_same_bytes(demo: Path, tmp_path: Path) -> None:
    make_demo_clips(tmp_path / 'again', SMALL, progress=False)
    assert _files(tmp_path / 'again') == _files(demo)
    make_demo_clips(tmp_path / 'other', DemoParams(seed=4, num_train=16, num_val=8, num_frames=6, size_px=36), progress=False)
    assert _files(tmp_path / 'other')['train/00000.mp4'] != _files(demo)['train/00000.mp4']


def test_complete_data_is_kept_and_anything_else_made_anew(demo: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'set'
    assert make_demo_clips(folder, SMALL, progress=False)
    before = (folder / 'manifest.json').stat().st_mtime_ns
    assert not make_demo_clips(folder, SMALL, progress=False)
    assert (folder / 'manifest.json').stat().st_mtime_ns == before
    (folder / 'train/00003.mp4').write_bytes(b'')
    assert not is_complete(folder, SMALL)
    assert make_demo_clips(folder, SMALL, progress=False)
    assert _files(folder) == _files(demo)
    assert make_demo_clips(folder, DemoParams(seed=3, num_train=8, num_val=8, num_frames=6, size_px=36), progress=False)
    assert len(list((folder / 'train').iterdir())) == 8
    assert [path.name for path in tmp_path.iterdir()] == ['set']


@pytest.mark.parametrize('error', [KeyboardInterrupt, OSError])
def test_interruption_leaves_no_half_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]) -> None:
    calls = []

    def fail(*args: object) -> None:
        calls.append(args)
        if len(calls) == 5:
            raise error

    monkeypatch.setattr(clips, 'write_video', fail)
    with pytest.raises(error):
        make_demo_clips(tmp_path / 'set', SMALL, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_other_peoples_files_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / 'thesis.txt').write_text('unsaved')
    with pytest.raises(FileExistsError, match='is not a demo data set'):
        make_demo_clips(tmp_path, SMALL, progress=False)
    assert (tmp_path / 'thesis.txt').read_text() == 'unsaved'


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(num_train=0), r'num_train=0 is too small: num_train must be at least 1; pass num_train=1'),
        (dict(num_frames=1), r'num_frames=1 is too small'),
        (dict(size_px=71), r'size_px=71 is odd, .* pass size_px=72'),
        (dict(size_px=72), r'size_px=72: decord misreads videos of this width; pass another size, say size_px=70'),
    ],
)
def test_parameters_are_checked(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DemoParams(**arguments)


@pytest.mark.parametrize('size_px', [32, 34, 46, 50, 64, 66, 70, 74, 96, 100])
def test_decord_reads_the_sizes_that_are_allowed(tmp_path: Path, size_px: int) -> None:
    DemoParams(size_px=size_px)
    clips.write_video(tmp_path / 'a.mp4', np.zeros((3, size_px, size_px, 3), np.uint8), 12)
    assert decord.VideoReader(str(tmp_path / 'a.mp4'), num_threads=1).get_batch([0, 2]).shape == (2, size_px, size_px, 3)


# The motions.


def test_paths_follow_their_names() -> None:
    start = Pose(0.5, 0.5, 0.5, 0.5)
    last = {motion: pose_path(motion, start, 0.2, 5)[-1] for motion in MOTIONS}
    moved = {motion: [getattr(pose, axis) - 0.5 for axis in ('x', 'y', 'turn', 'size')] for motion, pose in last.items()}
    signs = dict(left=(0, -1), right=(0, 1), up=(1, -1), down=(1, 1), clockwise=(2, 1), anticlockwise=(2, -1), grow=(3, 1), shrink=(3, -1))
    for motion, (axis, sign) in signs.items():
        expected = [0.0] * 4
        expected[axis] = 0.2 * sign
        assert moved[motion] == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"motion='jump' is unknown; it must be one of left, right"):
        pose_path('jump', start, 0.2, 5)


def _still(pose: Pose) -> np.ndarray:
    """Picture of the digit 7 in a pose, without ground, as ink in 0..1."""
    spec = draw_clip_spec(np.random.default_rng(0), 'grow', [7])
    spec = type(spec)(**{**vars(spec), 'start': pose, 'cycles': 0.0, 'negative': False, 'ground_tint': (0.0, 0.0, 0.0), 'opacity': 1.0})
    return render_clip(spec, load_digit_images(), 2, 64)[0].astype(float).mean(2)


def test_pictures_follow_the_pose() -> None:
    middle = _still(Pose(0.5, 0.5, 0.0, 0.5))
    assert np.array_equal(_still(Pose(0.75, 0.5, 0.0, 0.5)), np.roll(middle, 16, axis=1))  # right
    assert np.array_equal(_still(Pose(0.5, 0.75, 0.0, 0.5)), np.roll(middle, 16, axis=0))  # down
    assert np.allclose(_still(Pose(0.5, 0.5, 0.25, 0.5)), np.rot90(middle, -1), atol=2)  # clockwise on the screen
    areas = [np.count_nonzero(_still(Pose(0.5, 0.5, 0.0, size)) > 40) for size in (0.0, 0.5, 0.99)]
    assert areas == sorted(areas) and areas[2] > 4 * areas[0]


def test_no_digit_is_in_both_splits() -> None:
    split = digit_split(1797)
    assert not set(split['train']) & set(split['val'])
    assert len(split['train']) + len(split['val']) == 1797 and len(split['val']) > 300


# What a single frame tells, and what the order of frames tells.


def _rendered(num_clips: int, num_frames: int, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    images, labels = load_digit_images(), np.arange(num_clips) % len(MOTIONS)
    specs = [draw_clip_spec(np.random.default_rng([9, i]), MOTIONS[label], range(len(images))) for i, label in enumerate(labels)]
    return np.stack([render_clip(spec, images, num_frames, size_px) for spec in specs]), labels


def test_draws_do_not_depend_on_the_class() -> None:
    specs = [vars(draw_clip_spec(np.random.default_rng(5), motion, range(100))) for motion in MOTIONS]
    for spec in specs:
        del spec['motion'], spec['cycles']
    assert all(spec == specs[0] for spec in specs)


@pytest.mark.parametrize('frame', [0, -1])
def test_single_frames_do_not_tell_the_class(frame: int) -> None:
    frames, labels = _rendered(1600, 2, 32)
    small = np.stack([cv2.resize(clip[frame], (12, 12), interpolation=cv2.INTER_AREA).ravel() for clip in frames]) / 255.0
    for classifier in (RidgeClassifier(10.0), RandomForestClassifier(60, random_state=0)):
        accuracy = classifier.fit(small[:1000], labels[:1000]).score(small[1000:], labels[1000:])
        assert accuracy < 0.18  # chance is 0.125, the standard deviation of an accuracy at chance 0.0135


def _order_features(clip: np.ndarray) -> list[float]:
    """Median change from frame to frame of the digit's place, area and orientation, which need the frames in order."""
    grey = clip.astype(float).mean(3)
    ink = np.abs(grey - np.median(grey, axis=0))
    ink = np.where(ink > 0.35 * ink.max(), ink, 0.0)
    size = ink.shape[1]
    waves = np.exp(2j * np.pi * np.arange(size) / size)
    x, y = ink.sum(1) @ waves, ink.sum(2) @ waves
    area = np.log(np.count_nonzero(ink, axis=(1, 2)) + 1.0)
    turns = []
    for picture, at_x, at_y in zip(ink, np.angle(x), np.angle(y), strict=True):
        shift = [round(size / 2 - angle / (2 * np.pi) * size) for angle in (at_y, at_x)]
        moments = cv2.moments(np.roll(picture, shift, axis=(0, 1)))
        turns.append(np.arctan2(2 * moments['mu11'], moments['mu20'] - moments['mu02']))
    steps = [np.angle(z[1:] * z[:-1].conj()) for z in (x, y, np.exp(1j * np.array(turns)))]
    return [float(np.median(step)) for step in (*steps, np.diff(area))]


def test_the_order_of_frames_tells_the_class() -> None:
    frames, labels = _rendered(320, 16, 64)
    features = np.array([_order_features(clip) for clip in frames])
    backwards = np.array([_order_features(clip[::-1]) for clip in frames])
    forest = RandomForestClassifier(100, random_state=0).fit(features[:200], labels[:200])
    assert forest.score(features[200:], labels[200:]) > 0.75
    # The opposite of label 0 is 1, of 2 it is 3, and so on.
    assert forest.score(backwards[200:], labels[200:] ^ 1) > 0.75
