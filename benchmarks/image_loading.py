"""Images per second of decoding and augmentation, and CPU milliseconds of every step, on images made on the fly.

  python benchmarks/image_loading.py                  # 1 and 2 workers; ImageNet's pipelines, training also with draft; CIFAR's
  python benchmarks/image_loading.py --workers 8 --images 2048 --draft-size 160

The large images are coloured noise whose spectrum falls like that of photos, as JPEG files of 500x375 pixels, about as large as ImageNet's
are on average; files are read from the page cache.
"""

from __future__ import annotations

import argparse
import copy
import platform
import tempfile
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from mmengine.config import Config, ConfigDict
from mmengine.dataset import worker_init_fn
from mmengine.registry import init_default_scope
from PIL import Image
from torch.utils.data import DataLoader

from dynperceiver_cls.datasets import ImageFolder, PackedImages, stack_samples
from dynperceiver_cls.registry import TRANSFORMS

BASES = Path(__file__).parent.parent / 'configs' / '_base_' / 'datasets'
NUM_FILES = 64  # different images; more would only take longer to make


def photo(width: int, height: int, seed: int) -> Image.Image:
    """Noise with an amplitude that falls with the frequency, nearly alike in the three channels."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    grey, *colours = (np.fft.irfft2(np.fft.rfft2(rng.standard_normal((height, width))) / frequency, (height, width)) for _ in range(4))
    image = np.stack([grey + 0.3 * colour for colour in colours], -1)
    image = 128 + 50 * (image - image.mean()) / image.std()
    return Image.fromarray(image.clip(0, 255).astype(np.uint8))


def write_folder(root: Path, num_images: int) -> None:
    """Write the large images: a few files under many names."""
    folder = root / 'photos'
    folder.mkdir()
    for i in range(num_images):
        if i < NUM_FILES:
            photo(500, 375, i).save(folder / f'{i:06d}.jpg', quality=93)
        else:
            (folder / f'{i:06d}.jpg').hardlink_to(folder / f'{i % NUM_FILES:06d}.jpg')


def write_packed(path: Path, num_images: int) -> None:
    """Write the small images."""
    contents = []
    for i in range(min(NUM_FILES, num_images)):
        file = BytesIO()
        photo(32, 32, i).save(file, 'JPEG', quality=90)
        contents.append(file.getvalue())
    contents = [contents[i % len(contents)] for i in range(num_images)]
    offset = np.cumsum([0] + [len(content) for content in contents])
    label = np.zeros(num_images, np.uint8)
    np.savez(path, train_jpeg=np.frombuffer(b''.join(contents), np.uint8), train_offset=offset, train_label=label, classes=['noise'])


def images_per_second(dataset: Any, batch_size: int, num_workers: int) -> float:
    """Speed of a second epoch, when the workers run already."""
    loader = DataLoader(
        dataset, batch_size, shuffle=True, num_workers=num_workers, persistent_workers=True, collate_fn=stack_samples, drop_last=True,
        worker_init_fn=lambda number: worker_init_fn(number, num_workers, rank=0, seed=0),
    )
    for _ in loader:
        pass
    start = time.perf_counter()
    num_images = sum(len(batch['inputs']) for batch in loader)
    return num_images / (time.perf_counter() - start)


def step_ms(dataset: Any, pipeline: list[ConfigDict], num_images: int) -> dict[str, float]:
    """Mean CPU milliseconds of every step of a pipeline, in this process."""
    steps = [TRANSFORMS.build(copy.deepcopy(step)) for step in pipeline]
    seconds = dict.fromkeys((type(step).__name__ for step in steps), 0.0)
    for i in range(num_images):
        results = dataset.get_data_info(i % len(dataset))
        for step in steps:
            start = time.process_time()
            results = step(results)
            seconds[type(step).__name__] += time.process_time() - start
    return {name: 1e3 * total / num_images for name, total in seconds.items()}


def main() -> None:
    """Parse, make images, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--workers', type=int, nargs='+', default=[1, 2], help='(default: 1 2)')
    parser.add_argument('--images', type=int, default=1024, help='large images of an epoch; small ones are 8 times as many (default: 1024)')
    parser.add_argument('--batch-size', type=int, default=64, help='(default: %(default)s)')
    parser.add_argument('--draft-size', type=int, default=160, help='of LoadImage in the rows with draft (default: %(default)s)')
    args = parser.parse_args()
    init_default_scope('mmengine')
    imagenet, cifar = Config.fromfile(BASES / 'imagenet_224.py'), Config.fromfile(BASES / 'cifar10_jpeg.py')
    drafted = copy.deepcopy(imagenet.train_pipeline)
    drafted[0].draft_size = args.draft_size
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), args.images)
        write_packed(Path(folder, 'small.npz'), 8 * args.images)
        size_kb = np.mean([path.stat().st_size for path in Path(folder, 'photos').iterdir()]) / 1000
        print(f'Pillow {PIL.__version__}, {platform.machine()}, batches of {args.batch_size}, large files of {size_kb:.0f} kB')
        print(f'{"pipeline":<38} images/s with {args.workers} workers   CPU ms of each step')
        for name, pipeline in (
            ('ImageNet, training', imagenet.train_pipeline),
            (f'ImageNet, training, draft_size={args.draft_size}', drafted),
            ('ImageNet, testing', imagenet.test_pipeline),
            ('CIFAR enlarged to 64, training', cifar.train_pipeline),
        ):
            options = dict(data_root=folder, pipeline=pipeline)
            dataset = PackedImages('small.npz', **options) if 'CIFAR' in name else ImageFolder(**options)
            speeds = '  '.join(f'{images_per_second(dataset, args.batch_size, workers):>6.0f}' for workers in args.workers)
            steps = '  '.join(f'{step} {ms:.2f}' for step, ms in step_ms(dataset, pipeline, min(256, len(dataset))).items())
            print(f'{name:<38} {speeds}   {steps}', flush=True)


if __name__ == '__main__':
    main()
