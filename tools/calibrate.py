"""Find an exit policy on held-out data: python tools/calibrate.py CONFIG CHECKPOINT --budget-gflops 0.8 --out policy.json.

The calibration set is calibration_dataloader of the config; it must share no sample with the training and test sets. With --save-logits
the network runs only once: policies for other goals then take seconds with --from-logits.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import dynperceiver  # noqa: F401  its fixes for OpenMMLab on today's PyTorch must come before anything is loaded
from dynperceiver.benchmark.exit_times import time_exits
from dynperceiver.calibration.calibrate import calibrate
from dynperceiver.calibration.held_out_logits import HeldOutLogits, collect_logits, sample_form
from dynperceiver.calibration.report import policy_table
from dynperceiver.deployment.fingerprints import fingerprint_of_network
from dynperceiver.inference import BACKENDS
from dynperceiver.launch import build_calibration, check_at_least, check_output, checkpoint_config, run_tool, tool_parser
from dynperceiver.models import network_with_exits
from dynperceiver_runtime.policy.exit_policy import SCORES


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = tool_parser(__doc__, config='config file with calibration_dataloader')
    parser.add_argument('checkpoint', help='checkpoint of this config')
    parser.add_argument('--out', required=True, metavar='POLICY.json', type=Path, help='file to write the policy to')
    goals = parser.add_argument_group('goal (one of these)').add_mutually_exclusive_group(required=True)
    goals.add_argument('--budget-gflops', type=float, metavar='X', help='best accuracy at an average of at most X GFLOPs per sample')
    goals.add_argument('--budget-ms', type=float, metavar='X', help='the same for milliseconds, measured on this machine')
    goals.add_argument(
        '--exit-fractions', type=float, nargs='+', metavar='P',
        help='fractions of the samples that use each exit, for example 0.4 0.3 0.2 0.1',
    )
    goals.add_argument(
        '--max-accuracy-drop', type=float, metavar='X', help='lowest cost with an accuracy drop of at most X (0.01 is one percentage point)'
    )
    parser.add_argument(
        '--confidence-level', type=float, default=0.9, help='probability with which --max-accuracy-drop holds (default: %(default)s)'
    )
    score_help = 'confidence measure for exit decisions (default: %(default)s)'
    parser.add_argument('--score', choices=list(SCORES), default='confidence', help=score_help)
    parser.add_argument('--fit-temperature', action='store_true', help='calibrate the confidence of each exit with a temperature first')
    parser.add_argument('--backend', choices=list(BACKENDS), default='torch', help='what runs the network (default: %(default)s)')
    parser.add_argument(
        '--batch-size', type=int, default=1, metavar='N', help='batch size to measure milliseconds at (default: %(default)s)'
    )
    logits = parser.add_mutually_exclusive_group()
    logits.add_argument('--save-logits', type=Path, metavar='FILE.npz', help="save all exits' logits")
    logits.add_argument('--from-logits', type=Path, metavar='FILE.npz', help='reuse logits saved with --save-logits')
    parser.add_argument('--overwrite', action='store_true', help='overwrite POLICY.json and FILE.npz if they exist')
    args = parser.parse_args()
    for flag, path in (('--out', args.out), ('--save-logits', args.save_logits)):
        if path is not None:
            check_output(flag, path, args.overwrite)
    check_at_least('--batch-size', args.batch_size, 1)
    return args


def show_progress(loader: Any) -> Iterator[Any]:
    """Go through a loader; on a terminal one line moves, elsewhere a line is printed for every tenth."""
    total, start, shown, terminal = len(loader), time.monotonic(), -1, sys.stderr.isatty()
    for done, batch in enumerate(loader, 1):
        yield batch
        if terminal or 10 * done // total > shown or done == total:
            shown = 10 * done // total
            text = f'held-out samples: batch {done} of {total}, {time.monotonic() - start:.0f} s'
            print(f'\r{text}' if terminal else text, end='' if terminal and done < total else '\n', file=sys.stderr, flush=True)


def main() -> None:
    """Parse, load, run the network over the held-out samples, solve, write, say what was found."""
    args = parse_args()
    goal = {name: getattr(args, name) for name in ('budget_gflops', 'budget_ms', 'exit_fractions', 'max_accuracy_drop')}
    options: dict[str, Any] = dict(confidence_level=args.confidence_level, score=args.score)
    options['temperature'] = 'fit' if args.fit_temperature else 1.0
    with tempfile.TemporaryDirectory() as work_dir:
        calibration = build_calibration(checkpoint_config(args.config, args.checkpoint, args.cfg_options, work_dir))
        model, loader, held_out = calibration.model, calibration.loader, calibration.fingerprint
        network = network_with_exits(model)
        form = sample_form(model, loader.dataset[0]['inputs'].shape)
        options['cost_gflops'] = form.cost_gflops(network)
        if args.budget_ms is None:  # what no policy can reach is said before the network runs over all samples
            calibrate(np.zeros((len(network.segments), 8, 2), np.float32), np.zeros(8, np.int64), **goal, **options)
        checkpoint = fingerprint_of_network(network)
        if args.from_logits is not None:
            logits = HeldOutLogits.load(args.from_logits, checkpoint, held_out, form)
        else:
            logits = collect_logits(model, loader, held_out, args.backend, show_progress)
            if args.save_logits is not None:
                logits.save(args.save_logits)
        if args.budget_ms is not None:
            options['cost_ms'], options['machine'] = time_exits(model, loader, args.backend, args.batch_size)
    policy = calibrate(logits.logits_ESK, logits.labels_S, **goal, **options, checkpoint=checkpoint, calibration_set=held_out)
    policy.save(args.out)
    print(policy_table(policy, logits.logits_ESK, logits.labels_S))
    if args.budget_ms is not None:
        print(f'measured on {options["machine"]}; these times hold for that alone')
    print(f'{args.out} is written; next: python tools/test.py {args.config} {args.checkpoint} --exit-policy {args.out}')


if __name__ == '__main__':
    run_tool(main)
