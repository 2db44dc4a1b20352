"""What leaves the pipeline, and batches of it."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from tiny_images import noise

from dynperceiver_cls import ClsDataSample
from dynperceiver_cls.datasets import stack_samples
from dynperceiver_cls.transforms import PackInputs


def test_packed_sample() -> None:
    image = noise(5, 4)
    info = {'img': image, 'gt_label': np.uint8(3), 'img_path': 'a.png', 'sample_idx': 7, 'ori_shape': (40, 50), 'other': 1}
    packed = PackInputs()(copy.copy(info))
    assert set(packed) == {'inputs', 'data_samples'}
    assert packed['inputs'].dtype == torch.uint8 and packed['inputs'].shape == (3, 4, 5)
    assert packed['inputs'].permute(1, 2, 0).is_contiguous()
    np.testing.assert_array_equal(packed['inputs'].permute(1, 2, 0), image)
    sample = packed['data_samples']
    assert isinstance(sample, ClsDataSample) and type(sample.gt_label) is int and sample.gt_label == 3
    assert {key: sample.get(key) for key in sample.metainfo_keys()} == {'img_path': 'a.png', 'sample_idx': 7, 'ori_shape': (40, 50)}
    assert 'gt_label' not in PackInputs()({'img': image})['data_samples']


def test_the_tensor_may_be_written_to() -> None:
    image = noise(5, 4)
    before = image.tobytes()
    torch.set_warn_always(True)  # torch says only once that an array is not for writing
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            PackInputs()({'img': image})['inputs'].zero_()
    finally:
        torch.set_warn_always(False)
    assert image.tobytes() == before


def test_batch_is_stacked_in_channels_last_order() -> None:
    samples = [PackInputs()({'img': noise(6, 4, seed=i), 'gt_label': i}) for i in range(3)]
    batch = stack_samples(samples)
    images = batch['inputs']
    assert images.shape == (3, 3, 4, 6) and images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    for i, sample in enumerate(samples):
        assert torch.equal(images[i], sample['inputs'])
        assert batch['data_samples'][i] is sample['data_samples']


def test_sizes_must_agree() -> None:
    samples = [PackInputs()({'img': noise(size, 4), 'img_path': f'{i}.png'}) for i, size in enumerate((6, 6, 5))]
    with pytest.raises(ValueError, match=r'\(3, 4, 6\) of 0.png, but \(3, 4, 5\) of 2.png; give all the same size'):
        stack_samples(samples)
