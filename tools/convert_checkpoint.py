"""Convert a checkpoint between the authors' names and ours: python tools/convert_checkpoint.py IN OUT."""

from pathlib import Path

import torch

from dynperceiver.checkpoint import convert_from_reference, convert_to_reference, read_checkpoint_file, read_state_dict, save_state_dict
from dynperceiver.launch import run_tool, tool_parser


def main() -> None:
    """Parse, convert, save."""
    parser = tool_parser(__doc__)
    parser.add_argument(
        'source', metavar='IN', type=Path, help="checkpoint: the authors' (also under model or model_ema), or ours with --to-reference"
    )
    parser.add_argument('target', metavar='OUT', type=Path, help='file to write; it must not exist')
    parser.add_argument('--to-reference', action='store_true', help="from our names to the authors'")
    parser.add_argument('--weights', help='which to take where the file holds several, for example model or model_ema (the default)')
    parser.add_argument('--overwrite', action='store_true', help='replace OUT if it exists')
    args = parser.parse_args()
    if args.to_reference:
        state_dict = convert_to_reference(read_state_dict(args.source, args.weights))
    else:
        state_dict = convert_from_reference(read_checkpoint_file(args.source), args.weights)
    save_state_dict(state_dict, args.target, overwrite=args.overwrite)
    count = sum(tensor.numel() for tensor in state_dict.values() if torch.is_floating_point(tensor))
    print(f'{len(state_dict)} tensors, {count / 1e6:.2f} M numbers: {args.source} -> {args.target}')


if __name__ == '__main__':
    run_tool(main)
