"""Measure the speed of early exits on this machine: python tools/benchmark.py CONFIG [CHECKPOINT] (see --help).

Times every exit, the backbone-only baseline and, with a policy, the resulting mix of exits, on random images, for each backend and batch
size. Reports up to which batch size early exits are faster than the backbone-only baseline and than the full network.
"""

import argparse
import logging
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

import dynperceiver  # noqa: F401  its fixes for OpenMMLab on today's PyTorch must come before anything is loaded
from dynperceiver.benchmark.speed import fractions_of_policy, measure_speed, speed_table
from dynperceiver.deployment.fingerprints import fingerprint_of_network
from dynperceiver.inference import BACKENDS, ExitPolicy
from dynperceiver.launch import add_shape, check_output, image_size, load_network, read_config, run_tool, tool_parser
from dynperceiver_runtime.files import write_json


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = tool_parser(__doc__, config='config file of a model with exits')
    parser.add_argument('checkpoint', nargs='?', help='checkpoint of this config; it does not change the times (default: random weights)')
    parser.add_argument('--backend', nargs='+', choices=list(BACKENDS), default=list(BACKENDS), help='backends to time (default: all)')
    parser.add_argument('--batch-sizes', nargs='+', type=int, default=[1, 8, 32], metavar='N', help='batch sizes to time (default: 1 8 32)')
    parser.add_argument('--threads', type=int, help='number of threads (default: chosen by PyTorch)')
    parser.add_argument('--device', help='device for PyTorch, for example cuda (default: cpu)')
    add_shape(parser)
    mix = parser.add_mutually_exclusive_group()
    mix.add_argument(
        '--policy', metavar='POLICY.json', help='also time the exit fractions that this policy expects (from tools/calibrate.py)'
    )
    mix.add_argument(
        '--exit-fractions', type=float, nargs='+', metavar='FRACTION', help='also time these exit fractions, for example 0.4 0.3 0.1 0.2'
    )
    parser.add_argument(
        '--static', action=argparse.BooleanOptionalAction, default=True, help='time the backbone-only baseline (default: yes)'
    )
    parser.add_argument('--eager', action='store_true', help='also time network and baseline in plain PyTorch, not optimised for inference')
    parser.add_argument('--rounds', type=int, default=15, help='rounds of measurements (default: %(default)s)')
    parser.add_argument('--max-seconds', type=float, default=60, help='time limit per backend and batch size (default: %(default)s)')
    parser.add_argument('--out', type=Path, metavar='RESULT.json', help='save the results')
    args = parser.parse_args()
    if args.out is not None:
        check_output('--out', args.out)
    return args


def main() -> None:
    """Parse, build, measure, print."""
    args = parse_args()
    logging.disable(logging.WARNING)
    cfg = read_config(args.config, args.cfg_options)
    policy = None if args.policy is None else ExitPolicy.load(args.policy)
    _, network = load_network(cfg, args.checkpoint)
    if policy is not None and args.checkpoint is not None:
        policy.check_checkpoint(fingerprint_of_network(network), args.checkpoint)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task('')

        def show(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        report = measure_speed(
            network,
            args.backend,
            args.batch_sizes,
            image_size(args.shape, cfg),
            exit_fractions=args.exit_fractions if policy is None else fractions_of_policy(policy),
            static=args.static,
            eager=args.eager,
            num_threads=args.threads,
            device=args.device,
            rounds=args.rounds,
            max_seconds=args.max_seconds,
            progress=show,
        )
    print(f'{Path(args.config).stem}: {report["num_params"] / 1e6:.2f} M parameters')
    print(speed_table(report))
    if args.out is not None:
        write_json(args.out, dict(config=args.config, **report))
        print(f'{args.out} written')


if __name__ == '__main__':
    run_tool(main)
