"""The pipeline steps of our own."""

import numpy as np
import pytest

from dynperceiver_action.transforms import ClipExposure, FrameDifference, RandomPlacement, TemporalFlip, placement


def frames(levels, height=6, width=8):
    return [np.full((height, width, 3), level, np.uint8) for level in levels]


def test_exposure_brings_dark_and_bright_clips_to_one_mean():
    generator = np.random.default_rng(0)
    for scale in (0.1, 0.5, 1.0):
        clip = [(generator.random((32, 32, 3)) * 255 * scale).astype(np.uint8) for _ in range(4)]
        exposed = ClipExposure(target_mean=110, max_gain=50).transform(dict(imgs=clip))['imgs']
        assert np.mean(exposed) == pytest.approx(110, abs=4)
        assert exposed[0].dtype == np.uint8


def test_exposure_is_one_curve_for_the_clip():
    exposed = ClipExposure(gamma=1.0).transform(dict(imgs=frames([10, 20, 20, 30])))['imgs']
    means = [float(frame.mean()) for frame in exposed]
    assert means[1] == means[2] and means[0] < means[1] < means[3]
    assert means[1] / means[0] == pytest.approx(2, abs=0.1), 'the frames were not exposed alike, so that still things flicker'


def test_exposure_does_not_blow_up_black_clips():
    exposed = ClipExposure(gamma=1.0, max_gain=4).transform(dict(imgs=frames([1, 1])))['imgs']
    assert max(frame.max() for frame in exposed) <= 4


def test_exposure_jitter_varies_only_where_asked():
    def mean(jitter):
        return float(np.mean(ClipExposure(gamma=1.0, jitter=jitter).transform(dict(imgs=frames([40, 60])))['imgs']))

    assert len({mean(0.0) for _ in range(5)}) == 1
    np.random.seed(0)
    assert len({mean(0.5) for _ in range(5)}) > 1


def test_difference_of_a_still_scene_is_flat():
    result = FrameDifference().transform(dict(imgs=frames([77] * 8), clip_len=4))
    assert len(result['imgs']) == 2 and result['clip_len'] == 1
    assert all((image == 128).all() for image in result['imgs'])


def test_difference_channels_are_the_three_changes_of_a_run():
    result = FrameDifference(spread=20, floor=1e-6).transform(dict(imgs=frames([10, 20, 20, 40, 50, 50, 50, 50])))
    first, second = (image[0, 0].astype(int) - 128 for image in result['imgs'])
    mean_change = (10 + 0 + 20) / 6
    assert first.tolist() == pytest.approx([10 * 20 / mean_change, 0, 20 * 20 / mean_change], abs=1)
    assert second.tolist() == [0, 0, 0]
    assert all(image.flags['C_CONTIGUOUS'] and image.dtype == np.uint8 for image in result['imgs'])


def test_difference_of_a_reversed_run_is_reversed_in_sign():
    generator = np.random.default_rng(1)
    clip = [generator.integers(0, 255, (6, 6, 3)).astype(np.uint8) for _ in range(4)]
    forward = FrameDifference().transform(dict(imgs=clip))['imgs'][0].astype(int) - 128
    backward = FrameDifference().transform(dict(imgs=clip[::-1]))['imgs'][0].astype(int) - 128
    assert np.abs(forward + backward[..., ::-1]).max() <= 1


@pytest.mark.parametrize('number', [0, 3, 6])
def test_difference_wants_runs_of_four(number):
    with pytest.raises(ValueError, match=rf'{number} frames .*clip_len=4'):
        FrameDifference().transform(dict(imgs=frames([1] * number)))


def test_placement_is_the_same_for_all_frames_and_stays_on_the_canvas():
    np.random.seed(0)
    for _ in range(20):
        clip = frames([200] * 3, 40, 60)
        result = RandomPlacement((32, 48), scales=(0.4, 1.5)).transform(dict(imgs=clip))
        assert result['img_shape'] == (32, 48) and all(image.shape == (32, 48, 3) for image in result['imgs'])
        assert all((image == result['imgs'][0]).all() for image in result['imgs'])


def test_placement_keeps_the_whole_picture_where_it_is_small_and_fills_around_it():
    np.random.seed(0)
    share = []
    for _ in range(20):
        image = RandomPlacement((64, 64), scales=(0.5, 0.5), stretch=0.0, fill=7).transform(dict(imgs=frames([200], 32, 32)))['imgs'][0]
        share.append((image == 200).mean())
        assert 7 in image
    assert np.allclose(share, 0.25, atol=0.04), 'a picture of half the size covers a quarter of the canvas'


def test_a_smaller_picture_is_placed_wherever_it_fits_as_a_whole(monkeypatch):
    """By the matrices that OpenCV gets, for a canvas and a picture that are not square."""
    np.random.seed(0)
    matrices = []
    monkeypatch.setattr(placement.cv2, 'warpAffine', lambda frame, matrix, size, **_: matrices.append(matrix) or frame)
    for _ in range(200):
        RandomPlacement((40, 100), scales=(0.3, 0.9), stretch=0.1).transform(dict(imgs=frames([200], 30, 20)))
    sizes, starts = np.array([matrix[:, :2] @ (20, 30) for matrix in matrices]), np.array([matrix[:, 2] for matrix in matrices])
    room = np.array([100, 40]) - sizes
    assert (sizes > 0).all() and (starts >= 0).all() and (starts <= room).all()
    places = starts / room
    assert (places.min(0) < 0.05).all() and (places.max(0) > 0.95).all()


@pytest.mark.parametrize(
    ('step', 'arguments', 'text'),
    [
        (ClipExposure, dict(target_mean=300), 'target_mean=300'),
        (ClipExposure, dict(gamma=0), 'gamma=0'),
        (FrameDifference, dict(spread=0), 'spread=0'),
        (RandomPlacement, dict(size=(0, 4)), r'size=\(0, 4\)'),
        (RandomPlacement, dict(size=(4, 4), scales=(1.0, 0.5)), 'smallest and a largest'),
        (RandomPlacement, dict(size=(4, 4), fill=300), 'fill=300'),
        (TemporalFlip, dict(prob=1.5), 'prob=1.5'),
    ],
)
def test_numbers_outside_their_rule_are_refused(step, arguments, text):
    with pytest.raises(ValueError, match=text):
        step(**arguments)


def test_steps_print_their_arguments():
    assert repr(FrameDifference(spread=5)) == 'FrameDifference(spread=5, floor=2.0)'
    assert 'size=(4, 8)' in repr(RandomPlacement((4, 8))) and 'jitter=0.3' in repr(ClipExposure(jitter=0.3))


def test_temporal_flip_reverses_time_and_maps_the_label():
    step = TemporalFlip(prob=1.0, label_map={2: 3, 3: 2})
    for label, expected in ((2, 3), (3, 2), (0, 0)):
        result = step.transform(dict(imgs=frames([1, 2, 3, 4]), label=label))
        assert [int(frame[0, 0, 0]) for frame in result['imgs']] == [4, 3, 2, 1]
        assert result['label'] == expected and result['temporal_flip']


def test_temporal_flip_leaves_clips_alone_at_probability_0_and_flips_about_half_at_one_half():
    result = TemporalFlip(prob=0.0, label_map={2: 3}).transform(dict(imgs=frames([1, 2]), label=2))
    assert [int(frame[0, 0, 0]) for frame in result['imgs']] == [1, 2] and result['label'] == 2
    np.random.seed(0)
    flips = [TemporalFlip().transform(dict(imgs=frames([1, 2]), label=0))['temporal_flip'] for _ in range(200)]
    assert 70 < sum(flips) < 130
