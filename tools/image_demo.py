"""Detect objects in images: python tools/image_demo.py IMAGE CONFIG --weights CHECKPOINT --out-dir DIR.

IMAGE is a file, a folder of images, or a URL. Pictures are saved to DIR/vis, predictions to DIR/preds.
"""

import dynperceiver_det  # noqa: F401  registers its parts; its fixes for OpenMMLab on today's PyTorch must come first

# isort: split
import argparse
from pathlib import Path
from typing import Any

import mmcv
import torch
from mmdet.apis import DetInferencer
from mmengine.config import Config

from dynperceiver.checkpoint import read_checkpoint_file
from dynperceiver.data import innermost_datasets
from dynperceiver.launch import UsageError, check_at_least, read_config, run_tool, tool_parser
from dynperceiver_runtime import MissingFileError, UserError

IMAGES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif', '.tiff', '.webp')


def parse_args() -> argparse.Namespace:
    """The flags of MMDetection's own image_demo.py, as far as they are about images alone."""
    parser = tool_parser(__doc__)
    parser.add_argument('inputs', metavar='IMAGE', help='image file, folder of images, or URL')
    parser.add_argument('model', metavar='CONFIG', help='config file')
    parser.add_argument('--weights', required=True, metavar='CHECKPOINT', help='checkpoint of this config')
    parser.add_argument('--out-dir', default='outputs', help='folder for pictures and predictions (default: %(default)s)')
    parser.add_argument('--device', help='cpu, cuda, cuda:1, ... (default: the GPU if there is one)')
    parser.add_argument('--pred-score-thr', type=float, default=0.3, help='lowest score of the boxes to draw (default: %(default)s)')
    parser.add_argument('--batch-size', type=int, default=1, help='batch size (default: %(default)s)')
    parser.add_argument('--show', action='store_true', help='show the pictures in a window')
    parser.add_argument('--no-save-vis', action='store_true', help='save no pictures')
    parser.add_argument('--no-save-pred', action='store_true', help='save no predictions')
    parser.add_argument('--print-result', action='store_true', help='print the predictions')
    parser.add_argument('--palette', default='none', choices=['coco', 'voc', 'citys', 'random', 'none'], help='colours of the classes')
    return parser.parse_args()


def list_images(inputs: str) -> list[str]:
    """Files to predict; each local one is known to be readable."""
    if '://' in inputs:
        return [inputs]
    path = Path(inputs)
    if not path.exists():
        raise MissingFileError(f'image {inputs} is missing; pass an image file, a folder of images, or a URL')
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGES) if path.is_dir() else [path]
    if not files:
        raise MissingFileError(f'folder {inputs} holds no image ({" ".join(IMAGES)}); pass an image file, or a folder of images')
    for file in files:
        if mmcv.imread(file) is None:
            raise UserError(f'{file} cannot be read as an image; remove it, or save it again as JPEG or PNG')
    return [str(file) for file in files]


def demo_config(path: str) -> Config:
    """The config with what MMDetection's inferencer expects of it."""
    cfg = read_config(path)
    if not cfg.get('model') or not cfg.get('test_dataloader'):
        raise UserError(f'{path} has no model or no test_dataloader; pass the config of a detector, whose test pipeline loads the images')
    dataset = cfg.test_dataloader.dataset = innermost_datasets(cfg.test_dataloader.dataset)[0]
    for step in dataset.pipeline:
        if step.type.rpartition('.')[2] == 'LoadImageFromFile':
            step.type = 'LoadImageFromFile'  # the inferencer knows it under its bare name only
    if not cfg.get('visualizer'):
        cfg.visualizer = dict(type='mmdet.DetLocalVisualizer', name='visualizer')
    return cfg


class Inferencer(DetInferencer):
    """MMDetection's inferencer, which would load what fits, log the rest, and draw the boxes of partly random weights."""

    def _load_weights_to_model(self, model: torch.nn.Module, checkpoint: dict[str, Any], cfg: Config) -> None:
        given = {key.removeprefix('module.'): value for key, value in checkpoint.get('state_dict', checkpoint).items()}
        try:
            absent = set(model.load_state_dict(given, strict=False).missing_keys)
            faults = [f'{name} is absent' for name, _ in model.named_parameters() if name in absent]
        except RuntimeError as error:  # sizes differ
            faults = [line.strip().rstrip('.') for line in str(error).splitlines()[1:]]
        if faults:
            raise UserError(
                f'the checkpoint is not of this config: {faults[0]}, in all {len(faults)} differences; pass as --weights one that was '
                'trained with it'
            )
        super()._load_weights_to_model(model, checkpoint, cfg)


def main() -> None:
    """Parse, check, predict, say where the pictures are."""
    args = parse_args()
    check_at_least('--batch-size', args.batch_size, 1)
    if args.device and args.device.startswith('cuda') and not torch.cuda.is_available():
        raise UsageError(f'--device {args.device}: PyTorch finds no GPU here; use --device cpu')
    images, cfg = list_images(args.inputs), demo_config(args.model)
    read_checkpoint_file(args.weights)
    device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    inferencer = Inferencer(cfg, args.weights, device, palette=args.palette, show_progress=len(images) > 1)
    chosen = ('batch_size', 'show', 'pred_score_thr', 'no_save_vis', 'no_save_pred', 'print_result', 'out_dir')
    inferencer(images, **{name: getattr(args, name) for name in chosen})
    saved = [f'{what} in {args.out_dir}/{folder}' for what, folder, off in
             (('pictures', 'vis', args.no_save_vis), ('predictions', 'preds', args.no_save_pred)) if not off]
    print(f'{len(images)} image{"s" * (len(images) > 1)}: {", ".join(saved) or "nothing saved"}')


if __name__ == '__main__':
    run_tool(main)
