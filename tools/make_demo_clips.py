#!/usr/bin/env python
"""Generate the demo data set: short clips of handwritten digits in eight motions.

Example: python tools/make_demo_clips.py data/demo
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from dynperceiver.launch import run_tool, tool_parser
from dynperceiver_action.demo import DemoParams, make_demo_clips


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    default = DemoParams()
    parser = tool_parser(__doc__)
    parser.add_argument('out', help='output folder, for example data/demo; it is kept if it is complete and has the same parameters')
    parser.add_argument('--seed', type=int, default=default.seed, help='random seed (default: %(default)s)')
    parser.add_argument('--num-train', type=int, default=default.num_train, help='number of training clips (default: %(default)s)')
    parser.add_argument('--num-val', type=int, default=default.num_val, help='number of held-out clips (default: %(default)s)')
    parser.add_argument('--num-frames', type=int, default=default.num_frames, help='frames per clip (default: %(default)s)')
    parser.add_argument('--size', type=int, default=default.size_px, metavar='PX', help='height and width (default: %(default)s)')
    parser.add_argument('--fps', type=int, default=default.fps, help='frames per second (default: %(default)s)')
    parser.add_argument('--quiet', action='store_true', help='show no progress bar')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Make the clips that the command line asks for."""
    args = parse_args(argv)
    start = time.perf_counter()
    params = DemoParams(args.seed, args.num_train, args.num_val, args.num_frames, args.size, args.fps)
    made = make_demo_clips(args.out, params, progress=not args.quiet)
    if made:
        print(
            f'{params.num_train} + {params.num_val} clips in {args.out} ({time.perf_counter() - start:.1f} s); see {args.out}/overview.png'
        )
    else:
        print(f'{args.out} is complete, nothing to do')


if __name__ == '__main__':
    run_tool(main)
