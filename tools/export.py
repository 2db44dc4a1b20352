"""Export a checkpoint for serving without PyTorch: python tools/export.py CONFIG CHECKPOINT OUT_DIR.

Writes one ONNX graph per segment, manifest.json and the policy to OUT_DIR, after checking that the graphs give the network's logits.
"""

import argparse
import logging
from typing import Any

import dynperceiver  # noqa: F401  its fixes for OpenMMLab on today's PyTorch must come before anything is loaded
from dynperceiver.checkpoint import read_checkpoint_file
from dynperceiver.deployment.export import export, export_table, read_preprocessing
from dynperceiver.inference import ExitPolicy, freeze
from dynperceiver.launch import add_shape, image_size, load_network, read_config, run_tool, tool_parser

SERVE = """\
Serve it, with packages/runtime[onnx] alone (images: normalised, float32, shape {shape}):
    from dynperceiver_runtime import DynamicRunner
    runner = DynamicRunner({folder!r})
    result = runner(images)"""


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = tool_parser(__doc__, config='config file of a model with exits')
    parser.add_argument('checkpoint', help="checkpoint of this config, or the authors' published checkpoint of this network")
    parser.add_argument('out_dir', metavar='OUT_DIR', help='output folder; an earlier export in it is replaced')
    parser.add_argument('--policy', metavar='FILE', help='exit policy to include (from tools/calibrate.py)')
    add_shape(parser)
    parser.add_argument('--opset', type=int, default=20, help='ONNX opset version (default: %(default)s)')
    return parser.parse_args()


def class_names(checkpoint: str, num_classes: int | None) -> Any:
    """Names of the classes that a checkpoint was trained on, if it says so."""
    meta = read_checkpoint_file(checkpoint).get('meta') or {}
    names = (meta.get('dataset_meta') or {}).get('classes') if isinstance(meta, dict) else None
    return names if isinstance(names, list | tuple) and len(names) == num_classes else None


def main() -> None:
    """Parse, build, load, export, print."""
    args = parse_args()
    logging.disable(logging.WARNING)
    cfg = read_config(args.config, args.cfg_options)
    policy = None if args.policy is None else ExitPolicy.load(args.policy)
    model, network = load_network(cfg, args.checkpoint)
    size = image_size(args.shape, cfg)
    report = export(
        freeze(network, size),
        args.out_dir,
        policy,
        args.opset,
        read_preprocessing(model),
        class_names(args.checkpoint, network.num_classes),
    )
    print(export_table(report))
    rows = 'S' if network.num_frames == 1 else f'S * {network.num_frames}'
    print(SERVE.format(folder=str(args.out_dir), shape=f'({rows}, 3, {size[0]}, {size[1]})'))


if __name__ == '__main__':
    run_tool(main)
