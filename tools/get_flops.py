"""Print the GMACs and parameters of each exit: python tools/get_flops.py CONFIG [--shape H W] (1 MAC = 1 FLOP)."""

import json
import logging

import dynperceiver  # noqa: F401  its fixes for OpenMMLab on today's PyTorch must come first
from dynperceiver.analysis import cost_table, costs_of_config
from dynperceiver.launch import add_shape, image_size, read_config, run_tool, tool_parser


def main() -> None:
    """Parse, count, print."""
    parser = tool_parser(__doc__, config='config file of any task')
    add_shape(parser)
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    cfg = read_config(args.config, args.cfg_options)
    report = costs_of_config(cfg, image_size(args.shape, cfg))
    print(json.dumps(report, indent=2) if args.json else cost_table(report))


if __name__ == '__main__':
    run_tool(main)
