"""Draw accuracy against cost of early exits: python tools/plot_tradeoff.py CONFIG CHECKPOINT --out DIR (see --help).

Policies for a range of budgets are found on the calibration set and evaluated on the test set; milliseconds are measured on this machine.
Writes tradeoff.png, with accuracy against GFLOPs and against milliseconds, and tradeoff.csv with all points.
"""

import argparse
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.runner import Runner
from rich.console import Console
from rich.progress import track

import dynperceiver  # noqa: F401  its fixes for OpenMMLab on today's PyTorch must come before anything is loaded
from dynperceiver.benchmark.tradeoff import measure_tradeoff
from dynperceiver.calibration.held_out_data import fingerprint_of_samples
from dynperceiver.calibration.held_out_logits import HeldOutLogits, collect_logits, sample_form
from dynperceiver.calibration.tradeoff import write_tradeoff_csv
from dynperceiver.deployment.fingerprints import fingerprint_of_network
from dynperceiver.inference import BACKENDS
from dynperceiver.launch import build_calibration, check_at_least, checkpoint_config, load_backbone, read_config, run_tool, tool_parser
from dynperceiver.models import network_with_exits
from dynperceiver.viz import draw_tradeoff
from dynperceiver_runtime.policy.exit_policy import SCORES


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = tool_parser(__doc__, config='config file with calibration_dataloader')
    parser.add_argument('checkpoint', help='checkpoint of this config')
    parser.add_argument('--out', required=True, type=Path, metavar='DIR', help='output folder, or name of the picture (DIR/NAME.png)')
    parser.add_argument('--static', nargs=2, metavar=('CONFIG', 'CHECKPOINT'), help='a trained backbone-only baseline to compare with')
    parser.add_argument(
        '--held-out-logits', type=Path, metavar='FILE.npz', help='logits of the calibration set, computed and saved if missing'
    )
    parser.add_argument('--test-logits', type=Path, metavar='FILE.npz', help='logits of the test set, computed and saved if missing')
    score_help = 'confidence measure for exit decisions (default: %(default)s)'
    parser.add_argument('--score', choices=list(SCORES), default='confidence', help=score_help)
    parser.add_argument(
        '--backend', choices=list(BACKENDS), default='onnxruntime',
        help='what runs the network while times are measured (default: %(default)s)',
    )
    parser.add_argument('--budgets', type=int, default=33, help='number of budgets (default: %(default)s)')
    parser.add_argument(
        '--crosses', type=int, default=4, help='number of policies that are also run and timed sample by sample (default: %(default)s)'
    )
    parser.add_argument(
        '--cross-samples', type=int, default=5000, metavar='N', help='number of test samples for that (default: %(default)s)'
    )
    parser.add_argument(
        '--batch-sizes', nargs='+', type=int, default=[1, 2, 4, 8, 16, 32], metavar='N',
        help='batch sizes for the comparison with the baseline (default: 1 2 4 8 16 32)',
    )
    parser.add_argument('--threads', type=int, help='number of threads (default: chosen by PyTorch)')
    parser.add_argument('--rounds', type=int, default=25, help='rounds of measurements (default: %(default)s)')
    args = parser.parse_args()
    for flag, value, least in (('--budgets', args.budgets, 2), ('--crosses', args.crosses, 0), ('--cross-samples', args.cross_samples, 1)):
        check_at_least(flag, value, least)
    return args


def logits_of(model: Any, loader: Any, path: Path | None, what: str) -> HeldOutLogits:
    """Logits of all exits for the samples of a loader, from a file if there is one."""
    samples = fingerprint_of_samples(loader.dataset)
    if path is not None and path.is_file():
        network = network_with_exits(model)
        return HeldOutLogits.load(
            path, fingerprint_of_network(network), samples, sample_form(model, loader.dataset[0]['inputs'].shape)
        )
    logits = collect_logits(model, loader, samples, progress=partial(watch, what))
    if path is not None:
        logits.save(path)
    return logits


def watch(what: str, items: Iterable[Any]) -> Iterable[Any]:
    """Go through items and show the progress."""
    return track(items, what, console=Console(stderr=True), transient=True)


def main() -> None:
    """Parse, collect, measure, draw, say what was found."""
    args = parse_args()
    picture = args.out if args.out.suffix else args.out / 'tradeoff.png'
    static = None if args.static is None else load_backbone(read_config(args.static[0]), args.static[1])
    with tempfile.TemporaryDirectory() as work_dir:
        cfg = checkpoint_config(args.config, args.checkpoint, args.cfg_options, work_dir)
        calibration = build_calibration(cfg)
        loader = Runner.build_dataloader(cfg.test_dataloader)
        held_out = logits_of(calibration.model, calibration.loader, args.held_out_logits, 'held-out samples')
        test = logits_of(calibration.model, loader, args.test_logits, 'test samples')
    report = measure_tradeoff(
        calibration.model, loader, held_out, test, backend=args.backend, score=args.score, num_budgets=args.budgets,
        num_crosses=args.crosses, num_cross_samples=args.cross_samples, batch_sizes=args.batch_sizes, num_threads=args.threads,
        rounds=args.rounds, static=static, progress=watch,
    )  # fmt: skip
    draw_tradeoff(report.rows, picture, f'{Path(args.config).stem}: accuracy against cost', report.caption)
    table = picture.with_suffix('.csv')
    write_tradeoff_csv(report.rows, table)
    print(f'{report.text}\n{picture} and {table} are written')


if __name__ == '__main__':
    run_tool(main)
