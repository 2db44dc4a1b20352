"""Missing data is named; broken files are skipped in training and refused in testing; the pipeline's own errors stay what they are."""

from __future__ import annotations

import copy
import logging
import weakref
from pathlib import Path
from typing import Any

import pytest
from mmengine.logging import MMLogger
from tiny_texts import TinyTextDataset, make_texts, read_number
from torch.utils.data import DataLoader

from dynperceiver.data import BadSampleError, Reason, diagnose_image, jpeg_looks_cut

BROKEN = {0: Reason.MISSING, 1: Reason.EMPTY, 2: Reason.UNDECODABLE, 3: Reason.OTHER_SIZE}
TEXTS = (None, '', 'word', '-1', '4', '5')


def _texts(root: Path, *texts: str | None, **kwargs: Any) -> TinyTextDataset:
    return TinyTextDataset(**make_texts(root, *texts, **kwargs))


def _value(sample: dict[str, Any]) -> int:
    return int(sample['inputs'])


@pytest.mark.parametrize('index', BROKEN)
def test_testing_refuses_broken_files(tmp_path: Path, index: int) -> None:
    dataset = _texts(tmp_path, *TEXTS, test_mode=True)
    with pytest.raises(BadSampleError) as caught:
        dataset[index]
    text = str(caught.value)
    remedy = 'write 0' if index == 3 else 'restore the file'
    assert text.startswith(f'{tmp_path}/{index}.txt: {BROKEN[index].text}')
    assert text.endswith(f'nothing is skipped here: {remedy}, or take its line out of {tmp_path}/list.txt.')
    assert _value(dataset[4]) == 4
    assert dataset.skipped_samples() == []


def test_training_skips_broken_files_and_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = _texts(tmp_path, *TEXTS)
    logger = MMLogger.get_instance('test_bad_samples')
    logger.addHandler(caplog.handler)
    try:
        for _ in range(2):
            assert all(_value(dataset[index]) in (4, 5) for index in range(-1, len(dataset)))
    finally:
        logger.removeHandler(caplog.handler)
    assert dataset.skipped_samples() == [(f'{tmp_path}/{index}.txt', reason) for index, reason in BROKEN.items()]
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    for index, reason in BROKEN.items():
        assert len([line for line in lines if f'Skipped in training: {tmp_path}/{index}.txt: {reason.text}' in line]) == 1
    dataset.clear_skipped()
    assert dataset.skipped_samples() == []


@pytest.mark.parametrize('test_mode', [False, True])
def test_errors_of_the_pipeline_are_not_blamed_on_the_file(tmp_path: Path, test_mode: bool) -> None:

    def faulty(results: dict[str, Any]) -> dict[str, Any]:
        raise KeyError('a bug of the pipeline')

    dataset = _texts(tmp_path, '0', test_mode=test_mode, pipeline=[faulty])
    with pytest.raises(KeyError, match='a bug of the pipeline'):
        dataset[0]
    assert dataset.skipped_samples() == []


def test_a_failure_leaves_nothing_of_the_pipeline_behind(tmp_path: Path) -> None:
    class Reader:
        pass

    readers = []

    def open_reader(results: dict[str, Any]) -> dict[str, Any]:
        results['open'] = Reader()
        readers.append(weakref.ref(results['open']))
        return results

    dataset = _texts(tmp_path, 'word', test_mode=True, pipeline=[open_reader, read_number])
    with pytest.raises(BadSampleError) as caught:
        dataset[0]
    assert [reader() for reader in readers] == [None]
    assert 'word' in str(caught.value)  # and so the error is still alive, with its traceback


def test_training_gives_up_when_nothing_is_usable(tmp_path: Path) -> None:
    with pytest.raises(BadSampleError, match=r'list\.txt: no usable sample in 101 draws; 2 of 2 samples .*/0\.txt \(missing\)'):
        _texts(tmp_path, None, None)[0]


@pytest.mark.parametrize('copied', [False, True])
@pytest.mark.parametrize('num_workers', [0, 2])
def test_marks_of_workers_reach_the_main_process(tmp_path: Path, num_workers: int, copied: bool) -> None:
    original = _texts(tmp_path, *TEXTS)
    dataset = copy.deepcopy(original) if copied else original
    loader = DataLoader(dataset, batch_size=1, num_workers=num_workers, persistent_workers=num_workers > 0, collate_fn=list)
    seen = []
    for _ in range(2):
        dataset.clear_skipped()
        seen.append([_value(batch[0]) for batch in loader])
        assert [reason for _, reason in dataset.skipped_samples()] == list(BROKEN.values())
        assert original.skipped_samples() == ([] if copied else dataset.skipped_samples())
    # The same samples stand in whatever the workers did before.
    assert seen[0] == seen[1] == [_value(dataset[index]) for index in range(len(dataset))]


@pytest.mark.parametrize('serialize_data', [False, True])
def test_subsets_have_marks_of_their_own(tmp_path: Path, serialize_data: bool) -> None:
    dataset = _texts(tmp_path, '0', '', '2', serialize_data=serialize_data)
    dataset[1]
    subset = dataset.get_subset([2, 1])
    assert subset.skipped_samples() == []
    dataset.clear_skipped()
    subset[1]
    assert [reason for _, reason in subset.skipped_samples()] == [Reason.EMPTY]
    assert dataset.skipped_samples() == []
    dataset.get_subset_([1, 0])
    dataset[0]
    assert dataset.skipped_samples()[0][0].endswith('1.txt')


def test_lazy_initialisation_makes_marks_too(tmp_path: Path) -> None:
    dataset = _texts(tmp_path, '', '1', lazy_init=True)
    assert dataset.skipped_samples() == []
    assert _value(dataset[0]) == 1
    assert len(dataset.skipped_samples()) == 1
    assert _value(copy.deepcopy(_texts(tmp_path, '', '1', lazy_init=True))[0]) == 1


def test_missing_data_is_named_in_the_first_line(tmp_path: Path) -> None:
    make_texts(tmp_path, '0')
    config = dict(ann_file='list.txt', data_root=str(tmp_path), data_prefix=dict(text='texts'))
    with pytest.raises(FileNotFoundError) as caught:
        TinyTextDataset(**config)
    first = str(caught.value).splitlines()[0]
    assert f'folder {tmp_path}/texts is missing' in first and 'list.txt' not in first and 'does not name' in first
    with pytest.raises(FileNotFoundError, match=r'folder .*/texts and file .*/train\.txt are missing; .* from Some Set; `make demo`'):
        TinyTextDataset(**config | dict(ann_file='train.txt', source='Some Set'))


def test_images_are_diagnosed_by_any_decoder(tmp_path: Path) -> None:
    def decode(path: str) -> None:
        if b'half' in Path(path).read_bytes():
            raise OSError('image file is truncated (3 bytes not processed)\nand more')
        if b'page' in Path(path).read_bytes():
            raise SyntaxError('not a picture')

    path = tmp_path / 'a.jpg'
    assert diagnose_image(str(path), decode).reason is Reason.MISSING
    for content, fault in (
        (b'', 'empty (0 bytes)'),
        (b'half', 'truncated (OSError: image file is truncated (3 bytes not processed))'),
        (b'page', 'undecodable (SyntaxError: not a picture)'),
    ):
        path.write_bytes(content)
        assert str(diagnose_image(str(path), decode)) == f'{path}: {fault}'
    path.write_bytes(b'whole')
    assert diagnose_image(str(path), decode) is None


def test_jpegs_without_an_end_look_cut(tmp_path: Path) -> None:
    path = tmp_path / 'a.jpg'
    for content, cut in ((b'\xff\xd8' + bytes(999), True), (b'\xff\xd8' + bytes(999) + b'\xff\xd9\0\0', False), (b'\x89PNG', False)):
        path.write_bytes(content)
        assert jpeg_looks_cut(str(path)) is cut
