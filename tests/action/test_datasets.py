"""Missing data is named; broken files are skipped in training and refused in testing; the pipeline's own errors stay what they are."""

from __future__ import annotations

import gc
import logging
import traceback
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, DefaultScope
from torch.utils.data import DataLoader

import dynperceiver_action  # noqa: F401  registers
from dynperceiver.data import DatasetError
from dynperceiver_action.datasets import Arid6Dataset, BadSampleError, RawframeDataset, Reason, VideoDataset, diagnose_video

VIDEO_PIPELINE = [
    dict(type='dynperceiver_action.DecordInit'),
    dict(type='mmaction.SampleFrames', clip_len=1, num_clips=8, test_mode=True),
    dict(type='mmaction.DecordDecode'),
    dict(type='mmaction.FormatShape', input_format='NCHW'),
    dict(type='mmaction.PackActionInputs', meta_keys=('img_shape', 'filename')),
]
FRAME_PIPELINE = [
    dict(type='mmaction.SampleFrames', clip_len=1, num_clips=8, test_mode=True),
    dict(type='mmaction.RawFrameDecode'),
    dict(type='mmaction.FormatShape', input_format='NCHW'),
    dict(type='mmaction.PackActionInputs', meta_keys=('img_shape', 'frame_dir')),
]
BROKEN = {
    'missing.mp4': Reason.MISSING,
    'empty.mp4': Reason.EMPTY,
    'garbage.mp4': Reason.UNDECODABLE,
    'page.mp4': Reason.UNDECODABLE,
    'no_frames.mp4': Reason.NO_FRAMES,
    'hole.mp4': Reason.UNDECODABLE,
    'cut.mp4': Reason.TRUNCATED,
    'cut_late.mp4': Reason.TRUNCATED,
    'cut_web_early.mp4': Reason.TRUNCATED,
    'cut_web.mp4': Reason.TRUNCATED,
    'cut_web_late.mp4': Reason.TRUNCATED,
    'cut.avi': Reason.TRUNCATED,
    'cut_late.avi': Reason.TRUNCATED,
}

VideoFolder = Callable[..., Path]
FrameFolder = Callable[..., Path]


def _videos(root: Path, **kwargs: Any) -> VideoDataset:
    kwargs = dict(pipeline=VIDEO_PIPELINE, ann_file='list.txt', data_prefix=dict(video=''), serialize_data=False) | kwargs
    return VideoDataset(data_root=str(root), **kwargs)


def _frames(root: Path, *lines: str, **kwargs: Any) -> RawframeDataset:
    (root / 'list.txt').write_text('\n'.join(lines) + '\n')
    kwargs = dict(pipeline=FRAME_PIPELINE, filename_tmpl='{:05}.jpg', data_prefix=dict(img=''), serialize_data=False) | kwargs
    return RawframeDataset(ann_file='list.txt', data_root=str(root), **kwargs)


def _videos_of(root: Path, *lines: str, **kwargs: Any) -> VideoDataset:
    (root / 'list.txt').write_text('\n'.join(lines) + '\n')
    kwargs = dict(pipeline=VIDEO_PIPELINE, data_prefix=dict(video='')) | kwargs
    return VideoDataset(ann_file='list.txt', data_root=str(root), **kwargs)


def _label(sample: dict[str, Any]) -> int:
    return int(sample['data_samples'].gt_label)


@pytest.mark.parametrize('name', ['whole.mp4', 'whole_web.mp4', 'whole.avi', 'one_frame.mp4'])
@pytest.mark.parametrize('test_mode', [False, True])
def test_whole_videos_load(video_folder: VideoFolder, name: str, test_mode: bool) -> None:
    dataset = _videos(video_folder(name), test_mode=test_mode)
    sample = dataset[0]
    assert sample['inputs'].shape == (8, 3, 64, 64)
    assert sample['data_samples'].filename == f'{dataset.data_prefix["video"]}{name}'
    assert dataset.skipped_samples() == []


@pytest.mark.parametrize(('name', 'reason'), BROKEN.items())
def test_testing_refuses_broken_videos(video_folder: VideoFolder, name: str, reason: Reason) -> None:
    dataset = _videos(video_folder(name, 'whole.mp4'), test_mode=True)
    with pytest.raises(BadSampleError) as caught:
        dataset[0]
    message = str(caught.value)
    assert name in message and reason.text in message and 'restore the file, or take its line out of' in message
    assert _label(dataset[1]) == 1
    assert dataset.skipped_samples() == []


def test_training_skips_broken_videos_and_says_so_once(video_folder: VideoFolder, caplog: pytest.LogCaptureFixture) -> None:
    dataset = _videos(video_folder(*BROKEN, 'whole.mp4', 'whole_web.mp4'))
    logger = MMLogger.get_instance('test_datasets')
    logger.addHandler(caplog.handler)
    try:
        for _ in range(2):
            for index in range(len(dataset)):
                assert _label(dataset[index]) >= len(BROKEN)
    finally:
        logger.removeHandler(caplog.handler)
    root = dataset.data_prefix['video']
    assert dict(dataset.skipped_samples()) == {f'{root}{name}': reason for name, reason in BROKEN.items()}
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    for name, reason in BROKEN.items():
        assert len([line for line in lines if f'{root}{name}: {reason.text}' in line]) == 1
    dataset.clear_skipped()
    assert dataset.skipped_samples() == []


def test_failed_decoding_leaves_no_reader_for_forked_workers(video_folder: VideoFolder) -> None:
    readers = []

    def note_reader(results: dict[str, Any]) -> dict[str, Any]:
        readers.append(weakref.ref(results['video_reader']))
        return results

    pipeline = [VIDEO_PIPELINE[0], note_reader, *VIDEO_PIPELINE[1:]]
    root = video_folder('hole.mp4', 'whole.mp4')
    gc.disable()  # what is only freed by the collector may be freed too late
    try:
        assert _label(_videos(root, pipeline=pipeline)[0]) == 1
        with pytest.raises(BadSampleError) as caught:
            _videos(root, pipeline=pipeline, test_mode=True)[0]
        assert len(readers) == 3 and not any(reader() for reader in readers)
        assert 'hole.mp4' in str(caught.value)  # and so the error is still alive, with its traceback
    finally:
        gc.enable()


def test_frames_outside_the_video_are_no_fault_of_the_file(video_folder: VideoFolder) -> None:
    path = str(video_folder('whole.mp4') / 'whole.mp4')
    assert diagnose_video(path) is None
    assert diagnose_video(path, [-3, 0, 1000]) is None
    assert diagnose_video(path, [1000]) is None


def test_frames_beyond_the_end_are_an_error_of_the_pipeline(video_folder: VideoFolder) -> None:

    def ask_too_much(results: dict[str, Any]) -> dict[str, Any]:
        results['frame_inds'] = np.array([0, 1000])
        return results

    dataset = _videos(video_folder('whole.mp4'), pipeline=[VIDEO_PIPELINE[0], ask_too_much, *VIDEO_PIPELINE[2:]])
    with pytest.raises(IndexError, match='1000') as caught:
        dataset[0]
    traceback.clear_frames(caught.tb)  # the reader in it could hang workers that a later test forks


@pytest.mark.parametrize(
    ('num_workers', 'start_method'),
    [
        (0, None),
        (2, 'fork'),
        pytest.param(1, 'spawn', marks=pytest.mark.slow),  # each worker imports everything anew
    ],
)
def test_marks_of_workers_reach_the_main_process(video_folder: VideoFolder, num_workers: int, start_method: str | None) -> None:
    names = ['empty.mp4', 'ok_1.mp4', 'cut.avi', 'ok_2.mp4', 'cut_web_early.mp4', 'ok_3.mp4']
    dataset = _videos(video_folder(*names))
    expected = [(f'{dataset.data_prefix["video"]}{name}', BROKEN[name]) for name in names if name in BROKEN]
    loader = DataLoader(
        dataset,
        batch_size=1,
        num_workers=num_workers,
        multiprocessing_context=start_method,
        persistent_workers=num_workers > 0,
        collate_fn=list,
    )
    seen = []
    for _ in range(2):
        dataset.clear_skipped()
        seen.append([_label(batch[0]) for batch in loader])
        assert dataset.skipped_samples() == expected
    # The same samples stand in whatever the workers did before.
    assert seen[0] == seen[1] == [_label(dataset[index]) for index in range(len(dataset))]


def test_video_without_extension_means_mp4(video_folder: VideoFolder) -> None:
    root = video_folder('whole.mp4')
    (root / 'list.txt').write_text('whole 0\n')
    assert _label(_videos(root, test_mode=True)[0]) == 0


def test_urls_are_left_to_the_pipeline(video_folder: VideoFolder) -> None:
    root = video_folder('whole.mp4')
    (root / 'list.txt').write_text('s3://bucket/clip.mp4 0\n')

    def remote(results: dict[str, Any]) -> dict[str, Any]:
        raise ConnectionError(results['filename'])

    with pytest.raises(ConnectionError, match='s3://bucket/clip'):
        VideoDataset(ann_file=str(root / 'list.txt'), pipeline=[remote], data_prefix=dict(video=''))[0]


# Missing data.


@pytest.mark.parametrize('scope', ['mmaction', 'mmdet', 'mmengine'])
def test_missing_data_is_named_in_the_first_line(tmp_path: Path, scope: str) -> None:
    config = dict(
        type='dynperceiver_action.VideoDataset',
        ann_file='train.txt',
        data_root=str(tmp_path / 'set'),
        data_prefix=dict(video='videos'),
        source='Some Data Set, https://example.org',
        pipeline=VIDEO_PIPELINE,
    )
    with DefaultScope.overwrite_default_scope(scope), pytest.raises(FileNotFoundError) as caught:
        DATASETS.build(config)
    first = str(caught.value).splitlines()[0]
    for part in (
        f'folder {tmp_path}/set/videos',
        f'file {tmp_path}/set/train.txt',
        'are missing',
        'Some Data Set, https://example.org',
        'make demo',
    ):
        assert part in first


# Raw frames.


def test_whole_frames_load(tmp_path: Path, frame_folder: FrameFolder) -> None:
    frame_folder('clip')
    sample = _frames(tmp_path, 'clip 16 3', test_mode=True)[0]
    assert sample['inputs'].shape == (8, 3, 64, 64) and _label(sample) == 3
    assert sample['data_samples'].frame_dir == f'{tmp_path}/clip'


def _break_frames(folder: Path, how: str) -> None:
    frame = folder / '00016.jpg'  # with 8 of 16 frames the middle of the last segment is its second frame
    content = frame.read_bytes()
    if how == 'no folder':
        folder.rename(folder.with_name('away'))
    elif how == 'empty folder':
        for file in folder.iterdir():
            file.unlink()
    elif how == 'no frame':
        frame.unlink()
    else:
        frame.write_bytes({'empty frame': b'', 'cut frame': content[: len(content) // 2], 'no picture': b'text' * 100}[how])


FRAME_FAULTS = {
    'no folder': ('broken: missing', Reason.MISSING),
    'empty folder': ('broken: without frames', Reason.NO_FRAMES),
    'no frame': ('00016.jpg: missing', Reason.MISSING),
    'empty frame': ('00016.jpg: empty', Reason.EMPTY),
    'cut frame': ('00016.jpg: truncated', Reason.TRUNCATED),
    'no picture': ('00016.jpg: undecodable', Reason.UNDECODABLE),
}


@pytest.mark.parametrize(('how', 'message', 'reason'), [(how, *rest) for how, rest in FRAME_FAULTS.items()])
def test_broken_frames(tmp_path: Path, frame_folder: FrameFolder, how: str, message: str, reason: Reason) -> None:
    _break_frames(frame_folder('broken'), how)
    frame_folder('whole')
    lines = ('broken 16 0', 'whole 16 1')
    with pytest.raises(BadSampleError, match=message):
        _frames(tmp_path, *lines, test_mode=True)[0]
    dataset = _frames(tmp_path, *lines)
    assert _label(dataset[0]) == 1
    assert dataset.skipped_samples() == [(f'{tmp_path}/broken', reason)]


def test_annotation_without_frames(tmp_path: Path, frame_folder: FrameFolder) -> None:
    frame_folder('clip')
    with pytest.raises(BadSampleError, match=r'clip: without frames \(the annotation says total_frames=0\)'):
        _frames(tmp_path, 'clip 0 0', test_mode=True)[0]
    # However the machine turns a division by zero into a frame number, the pipeline must not see it.
    with pytest.raises(BadSampleError, match='total_frames=0'):
        _frames(tmp_path, 'clip 0 0', test_mode=True, pipeline=[lambda results: results])[0]


def test_cut_frame_is_found_where_the_decoder_fills_it_up(tmp_path: Path, frame_folder: FrameFolder) -> None:
    folder = frame_folder('clip')

    def decode_anything(results: dict[str, Any]) -> dict[str, Any]:
        return dict(inputs=torch.zeros(1))

    pipeline = [FRAME_PIPELINE[0], decode_anything]
    assert 'inputs' in _frames(tmp_path, 'clip 16 0', pipeline=pipeline, test_mode=True)[0]
    _break_frames(folder, 'cut frame')
    with pytest.raises(BadSampleError, match=r'00016\.jpg: truncated'):
        _frames(tmp_path, 'clip 16 0', pipeline=pipeline, test_mode=True)[0]


@pytest.mark.parametrize(
    ('make', 'lines', 'changes', 'message'),
    [
        (_videos_of, ['a.mp4 0', 'b.mp4 x', 'c.mp4 1 2'], {}, r"line 2: 'b.mp4 x' must be the path of a video and a class number.*2 such"),
        (_videos_of, ['a.mp4,0', 'b.mp4,1,2'], {'delimiter': ','}, r"line 2: 'b.mp4,1,2' must be the path .*, with ',' between them"),
        (_videos_of, ['a.mp4 0 1', 'b.mp4 ?'], dict(multi_class=True, num_classes=3), r"line 2: 'b.mp4 \?' must be .* more class numbers"),
        (_frames, ['clip'], {}, r"line 1: 'clip' must be a folder of frames, the number of its frames and its class number"),
        (_frames, ['clip 8 0', 'clip 8 0 1'], {}, 'line 2: '),
        (_frames, ['clip 0 8 0', 'clip 0'], {'with_offset': True}, r"line 2: 'clip 0' must be a folder of .*, its first frame, the"),
        (_frames, ['clip 8 1.5'], {}, 'line 1: '),
    ],
)
def test_lines_that_are_none_are_named(
    tmp_path: Path, make: Callable[..., VideoDataset], lines: list[str], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DatasetError, match=rf'list\.txt, {message}'):
        make(tmp_path, *lines, **changes)


@pytest.mark.parametrize(
    ('make', 'lines', 'changes', 'labels'),
    [
        (_videos_of, ['a.mp4 0', 'some/b 12', 'c.mp4'], {}, [0, 12, -1]),
        (_videos_of, ['a b.mp4,3'], {'delimiter': ','}, [3]),
        (_videos_of, ['a.mp4 0 1'], dict(multi_class=True, num_classes=3), [[1, 1, 0]]),
        (_frames, ['clip 8', 'clip 9 4'], {}, [-1, 4]),
        (_frames, ['clip 3 9 4'], {'with_offset': True}, [4]),
    ],
)
def test_lines_that_are_right_are_read(
    tmp_path: Path, make: Callable[..., VideoDataset], lines: list[str], changes: dict[str, Any], labels: list[Any]
) -> None:
    dataset = make(tmp_path, *lines, **changes)
    found = [dataset.get_data_info(index)['label'] for index in range(len(dataset))]
    assert [label.tolist() if isinstance(label, torch.Tensor) else label for label in found] == labels


# ARID-6.

TABLE = 'split,label,class,file,frames\ntrain,0,Jump,a/whole.mp4,16\nvalidate,5,Walk,whole.mp4,16\ntrain,1,Run,whole.mp4,16\n'


def test_arid6_reads_its_table(video_folder: VideoFolder) -> None:
    root = video_folder('whole.mp4')
    (root / 'labels.csv').write_text(TABLE)
    arguments = dict(ann_file='labels.csv', data_root=str(root), data_prefix=dict(video=''), pipeline=VIDEO_PIPELINE)
    train = Arid6Dataset(split='train', **arguments)
    assert [train.get_data_info(i)['label'] for i in range(len(train))] == [0, 1]
    assert _label(train[0]) == 1  # a/whole.mp4 is not there
    assert _label(Arid6Dataset(split='validate', test_mode=True, **arguments)[0]) == 5
    assert train.metainfo['classes'][5] == 'Walk'
    with pytest.raises(ValueError, match=r"split='val' has no row in .*it must be one of its splits: train, validate"):
        Arid6Dataset(split='val', **arguments)
    (root / 'labels.csv').write_text('file,label\nwhole.mp4,0\n')
    with pytest.raises(ValueError, match=r"has columns \['file', 'label'\], but split, label, class, file are needed"):
        Arid6Dataset(split='train', **arguments)
