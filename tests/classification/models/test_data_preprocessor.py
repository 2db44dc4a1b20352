"""From bytes to normalised and, in training, augmented batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from tiny_classification import NUM_CLASSES, random_batch
from torch import Tensor, nn

from dynperceiver_cls import ClsDataSample
from dynperceiver_cls.models import ClsDataPreprocessor

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
MIXING = dict(type='dynperceiver_cls.MixupCutmix', num_classes=NUM_CLASSES)


class Seen(nn.Module):
    """An augmentation that keeps what it got and adds a number."""

    def __init__(self, order: list[str], name: str, added: float) -> None:
        super().__init__()
        self.order, self.name, self.added = order, name, added
        self.images: Tensor | None = None

    def forward(self, images_BCHW: Tensor, labels_B: Tensor | None = None) -> Any:
        self.order.append(self.name)
        self.images = images_BCHW.clone()
        if labels_B is None:
            return images_BCHW + self.added
        return images_BCHW + self.added, nn.functional.one_hot(labels_B, NUM_CLASSES).float()


def _watched() -> tuple[ClsDataPreprocessor, list[str]]:
    """A preprocessor whose steps say when they run, two before and two after normalisation, and a mixing step."""
    order: list[str] = []
    preprocessor = ClsDataPreprocessor()
    preprocessor.before_norm = nn.ModuleList([Seen(order, 'before1', 1), Seen(order, 'before2', 2)])
    preprocessor.after_norm = nn.ModuleList([Seen(order, 'after1', 10), Seen(order, 'after2', 20)])
    preprocessor.mixing = Seen(order, 'mixing', 100)
    return preprocessor, order


def _normalised(images_BCHW: Tensor) -> np.ndarray:
    pixels = images_BCHW.numpy().astype(np.float64)
    return (pixels - np.array(MEAN).reshape(1, 3, 1, 1)) / np.array(STD).reshape(1, 3, 1, 1)


@pytest.mark.parametrize('training', [True, False])
def test_normalised_by_hand(training: bool) -> None:
    batch = random_batch()
    result = ClsDataPreprocessor()(batch, training=training)
    assert result['inputs'].dtype == torch.float32
    np.testing.assert_allclose(result['inputs'].numpy(), _normalised(batch['inputs']), rtol=1e-5, atol=1e-6)
    assert [sample.img_path for sample in result['data_samples']] == [sample.img_path for sample in batch['data_samples']]
    assert 'targets' not in result


def test_of_another_data_set() -> None:
    batch = random_batch()
    own = ClsDataPreprocessor(mean=[1, 2, 3], std=[4, 5, 6])(batch)['inputs']
    pixels = batch['inputs'].double()
    expected = (pixels - torch.tensor([1, 2, 3]).view(3, 1, 1)) / torch.tensor([4, 5, 6]).view(3, 1, 1)
    torch.testing.assert_close(own.double(), expected, rtol=1e-6, atol=1e-5)


def test_the_images_given_are_left_as_they_are() -> None:
    batch, same = random_batch(), random_batch()
    ClsDataPreprocessor(mixing=MIXING)(batch, training=True)
    assert torch.equal(batch['inputs'], same['inputs'])
    floats = dict(batch, inputs=batch['inputs'].float().contiguous(memory_format=torch.channels_last))
    before = floats['inputs'].clone()
    ClsDataPreprocessor()(floats)
    assert torch.equal(floats['inputs'], before)


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('layout', ['channels last', 'channels first', 'list'])
def test_memory_is_channels_last(layout: str, training: bool) -> None:
    batch = random_batch()
    images = batch['inputs']
    assert images.is_contiguous(memory_format=torch.channels_last)
    expected = ClsDataPreprocessor()(batch)['inputs']
    batch['inputs'] = {'channels last': images, 'channels first': images.contiguous(), 'list': list(images)}[layout]
    result = ClsDataPreprocessor()(batch, training=training)['inputs']
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(result, expected)


def test_augmentation_stands_where_it_should() -> None:
    preprocessor, order = _watched()
    batch = random_batch()
    result = preprocessor(batch, training=True)
    assert order == ['before1', 'before2', 'after1', 'after2', 'mixing']
    first = preprocessor.before_norm[0].images
    assert torch.equal(first, batch['inputs'].float()) and first.max() > 200, 'values from 0 to 255'
    np.testing.assert_allclose(preprocessor.after_norm[0].images.numpy(), _normalised(batch['inputs'].float() + 3), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(preprocessor.mixing.images, preprocessor.after_norm[0].images + 30)
    torch.testing.assert_close(result['inputs'], preprocessor.mixing.images + 100)
    labels = [sample.gt_label for sample in batch['data_samples']]
    assert result['targets'].argmax(1).tolist() == labels


def test_nothing_is_augmented_outside_training() -> None:
    preprocessor, order = _watched()
    result = preprocessor(random_batch())
    assert order == [] and 'targets' not in result


def test_mixing_gives_probabilities() -> None:
    result = ClsDataPreprocessor(mixing=MIXING)(random_batch(), training=True)
    targets = result['targets']
    assert targets.shape == (8, NUM_CLASSES)
    torch.testing.assert_close(targets.sum(1), torch.ones(8))
    assert (targets > 0).all(), 'labels are smoothed'


def test_augmentation_is_built_from_configs() -> None:
    before = [dict(type='dynperceiver_cls.RandAugment', num_ops=1)]
    after = [dict(type='dynperceiver_cls.RandomErasing', prob=1.0)]
    preprocessor = MODELS.build(dict(type='dynperceiver_cls.ClsDataPreprocessor', before_norm=before, after_norm=after, mixing=MIXING))
    parts = [*preprocessor.before_norm, *preprocessor.after_norm, preprocessor.mixing]
    assert [type(part).__name__ for part in parts] == ['RandAugment', 'RandomErasing', 'MixupCutmix']
    result = preprocessor(random_batch(), training=True)
    assert result['inputs'].isfinite().all() and result['targets'].shape == (8, NUM_CLASSES)


def test_without_data_samples_nothing_is_mixed() -> None:
    result = ClsDataPreprocessor(mixing=MIXING)(dict(inputs=random_batch()['inputs']), training=True)
    assert result['data_samples'] is None and 'targets' not in result


def test_images_of_different_sizes() -> None:
    images = [random_batch(1, size)['inputs'][0] for size in (64, (64, 80), 64)]
    text = r'images of different shapes in a batch: \[\(3, 64, 64\), \(3, 64, 80\)\]; let the pipeline end with a crop or resize to one'
    with pytest.raises(ValueError, match=text):
        ClsDataPreprocessor()(dict(inputs=images, data_samples=None))


def test_unlabelled_images_are_not_mixed() -> None:
    batch = random_batch()
    batch['data_samples'][3] = ClsDataSample(metainfo=dict(img_path='flowers/x.png'))
    with pytest.raises(ValueError, match=r'flowers/x\.png has no gt_label; training and validation need labelled images, check the ann'):
        ClsDataPreprocessor(mixing=MIXING)(batch, training=True)
    assert ClsDataPreprocessor(mixing=MIXING)(batch)['inputs'].shape == (8, 3, 64, 64), 'testing needs no label'


@pytest.mark.parametrize(
    'arguments', [dict(mean=(1, 2)), dict(std=(1, 2)), dict(std=(1, 2, 0)), dict(mean=(1, 2, 3, 4)), dict(std=(1, -2, 3))]
)
def test_wrong_numbers(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match='three numbers each are needed, for red, green and blue, std above 0') as caught:
        ClsDataPreprocessor(**arguments)
    ((name, value),) = arguments.items()
    assert f'{name}={value}' in str(caught.value)


def test_mean_and_std_go_into_no_checkpoint() -> None:
    """They are settings of the config, not weights."""
    assert not ClsDataPreprocessor(before_norm=[dict(type='dynperceiver_cls.RandAugment')], mixing=MIXING).state_dict()
