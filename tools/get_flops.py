"""Print GMACs and parameters per exit of any config: python tools/get_flops.py CONFIG [--shape H W] (1 MAC = 1 FLOP)."""

import argparse
import json
import logging

from mmengine.config import DictAction

import dynperceiver  # noqa: F401  its fixes for OpenMMLab on today's PyTorch must come first
from dynperceiver.analysis import cost_table, costs_of_config
from dynperceiver.launch import read_config, run_tool


def main() -> None:
    """Parse, count, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file of any task')
    parser.add_argument(
        '--shape', type=int, nargs='+', metavar='PIXELS', help='height and width of the input (default: input_shape of the config, or 224)'
    )
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='settings to override')
    args = parser.parse_args()
    if args.shape is not None and len(args.shape) > 2:
        parser.error(f'--shape {args.shape}: give one number for a square, or height and width')
    logging.disable(logging.WARNING)
    cfg = read_config(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    report = costs_of_config(cfg, args.shape)
    print(json.dumps(report, indent=2) if args.json else cost_table(report))


if __name__ == '__main__':
    run_tool(main)
