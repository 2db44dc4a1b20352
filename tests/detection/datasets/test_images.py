"""Image files that are missing, broken or of another size than annotated."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_coco import PIPELINE, coco_content, coco_settings, write_image

from dynperceiver.data import BadSampleError, Reason
from dynperceiver_det.datasets import CocoDataset
from dynperceiver_det.datasets.images import diagnose_photo, missing_files


def _turn(path: Path, orientation: int) -> None:
    """Mark a photo as taken with the camera turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(path) as image:
        image.load()
    image.save(path, exif=exif)


BROKEN = {
    'empty': ('empty (0 bytes) (image id 10)', Reason.EMPTY, 'restore the file'),
    'cut': ('truncated (image id 10: OSError: image file is truncated', Reason.TRUNCATED, 'restore the file'),
    'page': ('undecodable (image id 10: UnidentifiedImageError: ', Reason.UNDECODABLE, 'restore the file'),
    'gone': ('missing (image id 10)', Reason.MISSING, 'restore the file'),
    'size': (
        'of another size than annotated (image id 10: 64 x 40 pixels as decoded, but 48 x 32 in the annotations)',
        Reason.OTHER_SIZE,
        'correct its width and height and its boxes, or put back the image that was annotated',
    ),
    'swapped': (
        '32 x 48 pixels as decoded, but 48 x 32 in the annotations; width and height are swapped, as happens to photos that EXIF turns)',
        Reason.OTHER_SIZE,
        'correct its width and height',
    ),
    'turned': (
        '32 x 48 pixels as decoded, but 48 x 32 in the annotations; its EXIF orientation 6 turns it, and the annotations were made without',
        Reason.OTHER_SIZE,
        "load images with LoadImageFromFile(color_type='color_ignore_orientation'), save it without EXIF orientation",
    ),
}


def _break(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == 'gone':
        path.unlink()
    elif how in ('size', 'swapped'):
        write_image(path, (64, 40) if how == 'size' else (32, 48))
    elif how == 'turned':
        _turn(path, 6)
    else:
        path.write_bytes({'empty': b'', 'cut': content[: len(content) // 2], 'page': b'<html>404</html>'}[how])


@pytest.mark.parametrize('how', BROKEN)
def test_testing_refuses_broken_images(tmp_path: Path, how: str) -> None:
    dataset = CocoDataset(**coco_settings(tmp_path, test_mode=True))
    path = tmp_path / 'images' / '0.jpg'
    _break(path, how)
    with pytest.raises(BadSampleError) as caught:
        dataset[0]
    text, (what, _, remedy) = str(caught.value), BROKEN[how]
    assert text.startswith(f'{path}: ') and what in text
    assert f'nothing is skipped here: {remedy}' in text
    assert text.endswith(f', or take its image record out of {tmp_path}/train.json.')
    assert dataset[1]['data_samples'].img_id == 20


@pytest.mark.parametrize('how', BROKEN)
def test_training_skips_broken_images(tmp_path: Path, how: str, warnings_logged: Callable[[], list[str]]) -> None:
    dataset = CocoDataset(**coco_settings(tmp_path))
    path = tmp_path / 'images' / '0.jpg'
    _break(path, how)
    replacements = {dataset[0]['data_samples'].img_id for _ in range(3)}
    assert len(replacements) == 1 and not replacements & {10}
    assert dataset.skipped_samples() == [(str(path), BROKEN[how][1])]
    [warning] = warnings_logged()
    assert warning.startswith(f'Skipped in training: {path}: ') and BROKEN[how][0] in warning


def test_images_turned_as_annotated(tmp_path: Path) -> None:
    """Annotations made of what OpenCV shows by default are right, and so are those of the stored pixels where EXIF is left out."""
    content = coco_content()
    content['images'][0].update(width=32, height=48)
    content['annotations'][1].update(bbox=[1, 1, 5, 5])
    settings = coco_settings(tmp_path, content, test_mode=True)
    _turn(tmp_path / 'images' / '0.jpg', 8)
    assert CocoDataset(**settings)[0]['inputs'].shape == (3, 48, 32)
    _turn(tmp_path / 'images' / '0.jpg', 6)
    pipeline = [dict(PIPELINE[0], color_type='color_ignore_orientation'), *PIPELINE[1:]]
    as_stored = coco_settings(tmp_path, test_mode=True, pipeline=pipeline)
    assert CocoDataset(**as_stored)[0]['inputs'].shape == (3, 32, 48)


def test_cut_images_are_found_where_the_decoder_fills_them_up(tmp_path: Path) -> None:

    def decode_anything(results: dict[str, Any]) -> dict[str, Any]:
        results.update(img=torch.zeros(1), ori_shape=(32, 48))
        return results

    dataset = CocoDataset(**coco_settings(tmp_path, test_mode=True, pipeline=[decode_anything]))
    assert 'img' in dataset[0]
    _break(tmp_path / 'images' / '0.jpg', 'cut')
    with pytest.raises(BadSampleError, match=r'0\.jpg: truncated'):
        dataset[0]


def test_pipelines_that_load_no_image(tmp_path: Path) -> None:
    dataset = CocoDataset(**coco_settings(tmp_path, test_mode=True, pipeline=[]))
    _break(tmp_path / 'images' / '0.jpg', 'gone')
    assert dataset[0]['img_id'] == 10


@pytest.mark.parametrize('test_mode', [False, True])
def test_errors_of_the_pipeline_stay_what_they_are(tmp_path: Path, test_mode: bool) -> None:

    def faulty(results: dict[str, Any]) -> dict[str, Any]:
        raise KeyError('a bug of the pipeline')

    with pytest.raises(KeyError, match='a bug of the pipeline'):
        CocoDataset(**coco_settings(tmp_path, test_mode=test_mode, pipeline=[PIPELINE[0], faulty]))[0]


def test_whole_photos_have_no_fault(tmp_path: Path) -> None:
    write_image(tmp_path / 'a.jpg')
    path = str(tmp_path / 'a.jpg')
    assert diagnose_photo(path, 48, 32) is None
    assert diagnose_photo(path, 48, 32, (48, 32)) is None
    assert diagnose_photo(path, 48, 32, (7, 7)) is None, 'a size that is not of this file'
    assert diagnose_photo(path, 32, 48).reason is Reason.OTHER_SIZE
    for orientation in range(1, 9):  # from 5 on by a quarter
        _turn(tmp_path / 'a.jpg', orientation)
        assert (diagnose_photo(path, 48, 32) is None) == (orientation < 5) == (diagnose_photo(path, 32, 48) is not None)


# Missing images.


def test_missing_images_are_named_before_training(tmp_path: Path) -> None:
    settings = coco_settings(tmp_path)
    for name in ('1.jpg', '3.jpg'):
        (tmp_path / 'images' / name).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        CocoDataset(**settings)
    folder = f'{tmp_path}/images/'
    assert str(caught.value) == (
        f'{tmp_path}/train.json: 2 of 4 images are missing in {folder}: {folder}1.jpg (image id 20), {folder}3.jpg (image id 40); '
        'unpack the images completely, or take the records of these out of train.json.'
    )
    # What is not loaded need not be there.
    assert len(CocoDataset(**settings, indices=[0, 2])) == 2
    content = coco_content()
    content['annotations'] = [annotation for annotation in content['annotations'] if annotation['image_id'] in (10, 30)]
    settings = coco_settings(tmp_path, content, filter_cfg=dict(filter_empty_gt=True))
    (tmp_path / 'images' / '1.jpg').unlink()
    (tmp_path / 'images' / '3.jpg').unlink()
    assert len(CocoDataset(**settings)) == 2
    with pytest.raises(FileNotFoundError, match='2 of 4 images are missing'):
        CocoDataset(**settings | dict(test_mode=True))


def test_another_folder(tmp_path: Path) -> None:
    (tmp_path / 'train2017').mkdir()
    with pytest.raises(FileNotFoundError, match=r"4 of 4 images are missing in .*/train2017/: .*0\.jpg .*; data_prefix\['img'\] or "):
        CocoDataset(**coco_settings(tmp_path, data_prefix=dict(img='train2017/')))
    with pytest.raises(FileNotFoundError, match=r'Data not found: folder .*/val2017/ is missing; .* from cocodataset; `make demo` '):
        CocoDataset(**coco_settings(tmp_path, data_prefix=dict(img='val2017/'), source='cocodataset'))
    with pytest.raises(FileNotFoundError, match=r'Data not found: file .*/val\.json is missing'):
        CocoDataset(**coco_settings(tmp_path, ann_file='val.json'))
    with pytest.raises(ValueError, match=r"data_prefix=.*img_path.* needs the images' folder as 'img'; write"):
        CocoDataset(**coco_settings(tmp_path, data_prefix=dict(img_path='images/')))


def test_each_folder_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [f'{tmp_path}/{folder}/{name}.jpg' for folder in ('a', 'b') for name in range(3)]
    for path in paths:
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).touch()
    listed: list[str] = []
    scandir, looked_at = os.scandir, []
    monkeypatch.setattr(os, 'scandir', lambda folder: listed.append(folder) or scandir(folder))
    monkeypatch.setattr(os.path, 'isfile', lambda path: bool(looked_at.append(path)))
    assert missing_files(paths) == [] and looked_at == []
    assert listed == [f'{tmp_path}/a', f'{tmp_path}/b']
    assert missing_files([*paths, f'{tmp_path}/b/9.jpg', f'{tmp_path}/c/0.jpg']) == [6, 7]


def test_files_on_other_machines_are_not_looked_at(tmp_path: Path) -> None:

    def fetch(results: dict[str, Any]) -> dict[str, Any]:
        raise ConnectionError(results['img_path'])

    settings = coco_settings(tmp_path, test_mode=True, pipeline=[fetch])
    shutil.rmtree(tmp_path / 'images')
    with pytest.raises(ConnectionError, match='s3://bucket/images/0'):
        CocoDataset(**settings | dict(data_prefix=dict(img='s3://bucket/images/')))[0]
    lazy = CocoDataset(**settings | dict(backend_args=dict(backend='petrel'), lazy_init=True))
    assert lazy.is_remote('images/0.jpg')
