"""Convert a checkpoint of the authors or of another library to the names of this project, or back."""

from pathlib import Path

import torch

from dynperceiver.checkpoint import (
    TRUNK_NAMES,
    convert_from_reference,
    convert_from_trunk,
    convert_to_reference,
    convert_to_trunk,
    find_trunk_names,
    read_checkpoint_file,
    read_state_dict,
    save_state_dict,
    unwrap_checkpoint,
)
from dynperceiver.launch import run_tool, tool_parser


def main() -> None:
    """Parse, convert, save."""
    parser = tool_parser(__doc__)
    parser.add_argument(
        'source',
        metavar='IN',
        help='checkpoint of the authors, a CNN of torchvision or timm, or pretrained://NAME; of this project with --to-reference or --to',
    )
    parser.add_argument('target', metavar='OUT', type=Path, help='file to write')
    direction = parser.add_mutually_exclusive_group()
    direction.add_argument('--to-reference', action='store_true', help="convert from this project's names to the authors'")
    libraries = list(dict.fromkeys(name for row in TRUNK_NAMES for name in row.libraries))
    direction.add_argument('--to', choices=libraries, help="convert this project's backbone-only baseline to the names of a library")
    parser.add_argument('--weights', help='weights to take if the file has several, for example model or model_ema (default: model_ema)')
    parser.add_argument('--overwrite', action='store_true', help='overwrite OUT if it exists')
    args = parser.parse_args()
    if args.to_reference:
        state_dict = convert_to_reference(read_state_dict(args.source, args.weights))
    elif args.to:
        state_dict = convert_to_trunk(read_state_dict(args.source, args.weights), args.to)
    else:
        checkpoint = read_checkpoint_file(args.source)
        given = unwrap_checkpoint(checkpoint, args.weights)
        state_dict = convert_from_reference(checkpoint, args.weights) if find_trunk_names(given) is None else convert_from_trunk(given)
    save_state_dict(state_dict, args.target, overwrite=args.overwrite)
    count = sum(tensor.numel() for tensor in state_dict.values() if torch.is_floating_point(tensor))
    print(f'{len(state_dict)} tensors, {count / 1e6:.2f} M parameters: {args.source} -> {args.target}')


if __name__ == '__main__':
    run_tool(main)
