#!/usr/bin/env python
"""Generate the demo data set of images: handwritten digits on noise, from easy to hard, one folder per class.

Example: python tools/make_demo_images.py data/demo_images
"""

from __future__ import annotations

import time

from dynperceiver.launch import run_tool, tool_parser
from dynperceiver_cls.demo import DemoParams, make_demo_images


def main() -> None:
    """Make the pictures that the command line asks for."""
    default = DemoParams()
    parser = tool_parser(__doc__)
    parser.add_argument('out', help='output folder, for example data/demo_images; it is kept if it is complete and has the same parameters')
    parser.add_argument('--seed', type=int, default=default.seed, help='random seed (default: %(default)s)')
    parser.add_argument('--num-train', type=int, default=default.num_train, help='number of training images (default: %(default)s)')
    parser.add_argument('--num-val', type=int, default=default.num_val, help='number of held-out images (default: %(default)s)')
    parser.add_argument('--size', type=int, default=default.size_px, metavar='PX', help='height and width (default: %(default)s)')
    parser.add_argument('--quiet', action='store_true', help='show no progress bar')
    args = parser.parse_args()
    start = time.perf_counter()
    params = DemoParams(args.seed, args.num_train, args.num_val, args.size)
    made = make_demo_images(args.out, params, progress=not args.quiet)
    if made:
        seconds = time.perf_counter() - start
        print(f'{params.num_train} + {params.num_val} images in {args.out} ({seconds:.1f} s); see {args.out}/overview.png')
    else:
        print(f'{args.out} is complete, nothing to do')


if __name__ == '__main__':
    run_tool(main)
