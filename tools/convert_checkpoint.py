"""Convert a checkpoint of the authors to the names of this project, or back: python tools/convert_checkpoint.py IN OUT."""

from pathlib import Path

import torch

from dynperceiver.checkpoint import convert_from_reference, convert_to_reference, read_checkpoint_file, read_state_dict, save_state_dict
from dynperceiver.launch import run_tool, tool_parser


def main() -> None:
    """Parse, convert, save."""
    parser = tool_parser(__doc__)
    parser.add_argument(
        'source', metavar='IN', type=Path, help="checkpoint of the authors, or of this project with --to-reference"
    )
    parser.add_argument('target', metavar='OUT', type=Path, help='file to write')
    parser.add_argument('--to-reference', action='store_true', help="convert from this project's names to the authors'")
    parser.add_argument('--weights', help='weights to take if the file has several, for example model or model_ema (default: model_ema)')
    parser.add_argument('--overwrite', action='store_true', help='overwrite OUT if it exists')
    args = parser.parse_args()
    if args.to_reference:
        state_dict = convert_to_reference(read_state_dict(args.source, args.weights))
    else:
        state_dict = convert_from_reference(read_checkpoint_file(args.source), args.weights)
    save_state_dict(state_dict, args.target, overwrite=args.overwrite)
    count = sum(tensor.numel() for tensor in state_dict.values() if torch.is_floating_point(tensor))
    print(f'{len(state_dict)} tensors, {count / 1e6:.2f} M parameters: {args.source} -> {args.target}')


if __name__ == '__main__':
    run_tool(main)
