"""Say what to deploy, early exits or a network without: python tools/advise.py CONFIG CHECKPOINT [--static CONFIG CHECKPOINT ...].

Races the policies of a network with exits against static networks (without exits) on this machine, at equal accuracy. Policies are solved,
and the choice is made, on calibration_dataloader; a part of the test data that it never saw judges it. Without --static, the network's own
CNN races, at its own and at smaller inputs. Let nothing else run meanwhile. See docs/inference.md.
"""

import argparse
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import dynperceiver  # noqa: F401  its fixes for OpenMMLab on today's PyTorch must come before anything is loaded
from dynperceiver.benchmark.advice_text import advice_table, final_verdicts, sentence, unknowns
from dynperceiver.benchmark.race import judged_samples, plain_networks, race
from dynperceiver.benchmark.speed import static_trunk_of
from dynperceiver.benchmark.timing import machine_description
from dynperceiver.calibration import HeldOutScores
from dynperceiver.calibration.held_out_data import fingerprint_of_samples
from dynperceiver.calibration.held_out_logits import collect_logits
from dynperceiver.inference import BACKENDS
from dynperceiver.launch import build_calibration, check_at_least, check_output, checkpoint_config, run_tool, tool_parser
from dynperceiver.launch.statics import load_static, test_loader
from dynperceiver.models import network_with_exits
from dynperceiver_runtime.files import write_json
from dynperceiver_runtime.policy.exit_policy import SCORES


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = tool_parser(__doc__, config='config file with calibration_dataloader')
    parser.add_argument('checkpoint', help='checkpoint of this config')
    static_help = 'a trained network without exits to race against; may be given several times (default: the CNN of the network itself)'
    parser.add_argument('--static', nargs=2, action='append', default=[], metavar=('CONFIG', 'CHECKPOINT'), help=static_help)
    parser.add_argument('--backend', nargs='+', choices=list(BACKENDS), default=list(BACKENDS), help='backends to race on (default: all)')
    parser.add_argument('--threads', nargs='+', type=int, metavar='N', help='numbers of threads (default: the one chosen by PyTorch)')
    parser.add_argument('--batch-sizes', nargs='+', type=int, default=[1, 8], metavar='N', help='batch sizes (default: 1 8)')
    sizes_help = 'smaller inputs to try networks without exits on; none to try none (default: seven eighths to half)'
    parser.add_argument('--sizes', nargs='*', type=int, metavar='PIXELS', help=sizes_help)
    drop_help = 'what a candidate may lack to the most accurate one, or one standard error if that is more (default: %(default)s)'
    parser.add_argument('--max-accuracy-drop', type=float, default=0.005, metavar='X', help=drop_help)
    judge_help = 'fraction of the test samples that judges the choice; always the same ones, 1 for all (default: %(default)s)'
    parser.add_argument('--judge', type=float, default=0.5, metavar='FRACTION', help=judge_help)
    score_help = 'confidence measure for exit decisions (default: %(default)s)'
    parser.add_argument('--score', choices=list(SCORES), default='confidence', help=score_help)
    parser.add_argument('--budgets', type=int, default=33, help='number of policies to solve (default: %(default)s)')
    parser.add_argument('--rounds', type=int, default=25, help='rounds of measurements (default: %(default)s)')
    parser.add_argument('--max-seconds', type=float, default=60, help='time limit of each measurement (default: %(default)s)')
    parser.add_argument('--out', type=Path, metavar='FILE.json', help='save all figures')
    policy_help = 'save the recommended policy; with several batch sizes FILE-batchN.json for each'
    parser.add_argument('--policy', type=Path, metavar='FILE.json', help=policy_help)
    args = parser.parse_args()
    check_at_least('--budgets', args.budgets, 2)
    check_at_least('--sizes', min(args.sizes or [8]), 8)
    for flag, path in (('--out', args.out), ('--policy', args.policy)):
        if path is not None:
            check_output(flag, path)
    return args


def say(what: str) -> None:
    """What is done now."""
    print(f'{what} ...', file=sys.stderr, flush=True)


def main() -> None:
    """Load, answer all samples, race, say what was found."""
    args = parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as work_dir:
        cfg = checkpoint_config(args.config, args.checkpoint, args.cfg_options, work_dir)
        loader = test_loader(cfg)
        calibration = build_calibration(cfg)
        given = [load_static(config, checkpoint, cfg) for config, checkpoint in args.static]
        model, network = calibration.model, network_with_exits(calibration.model)
        say('answers of all exits')
        logits = collect_logits(model, calibration.loader, calibration.fingerprint)
        test = collect_logits(model, loader, fingerprint_of_samples(loader.dataset))
    solved, judged = (HeldOutScores.from_logits(one.logits_ESK, one.labels_S, args.score) for one in (logits, test))
    judged_S = judged_samples(judged.num_samples, args.judge)
    judged = judged.select(judged_S)
    rivals = [(one.name, one.model, one.model.backbone, (one.calibration_loader, one.test_loader)) for one in given]
    rivals = rivals or [('the network alone', model, static_trunk_of(network), (calibration.loader, loader))]
    statics, skipped = [], {}
    for name, owner, backbone, loaders in rivals:
        say(f'answers of {name}')
        sizes = None if args.sizes is None else [(size, size) for size in args.sizes]
        found, left_out = plain_networks(owner, backbone, loaders, name, int(network.num_classes or 0), judged_S, sizes)
        statics += found
        skipped |= dict.fromkeys(left_out, 'it cannot run on such images')
    verdicts = race(
        network, logits.form, solved, judged, statics, engines=args.backend, threads=args.threads or (None,), batch_sizes=args.batch_sizes,
        max_accuracy_drop=args.max_accuracy_drop, num_budgets=args.budgets, rounds=args.rounds, max_seconds=args.max_seconds, progress=say,
    )  # fmt: skip
    machine = machine_description()
    own_right_S = judged.correct_ES[network.exits.trunk_exit_index]  # type: ignore[union-attr]
    differs = not given and float(np.mean(own_right_S != statics[0].judged_right_S)) > 0.01
    notes = unknowns(verdicts, num_given=len(given), trunk_differs=differs, machine=machine, skipped=skipped)
    ends = final_verdicts(verdicts)
    files = {}
    for verdict in ends:
        policy = verdict.policy(logits.checkpoint, calibration.fingerprint, solved.num_samples, machine)
        if args.policy is not None and policy is not None:
            path = args.policy if len(ends) == 1 else args.policy.with_stem(f'{args.policy.stem}-batch{verdict.setting.batch_size}')
            policy.save(path)
            files[verdict.setting] = str(path)
    words = [sentence(verdict, files.get(verdict.setting)) for verdict in ends]
    if args.out is not None:
        figures: dict[str, Any] = dict(config=str(args.config), machine=machine, advice=words, unknown=notes)
        write_json(args.out, figures | dict(settings=[verdict.figures() for verdict in verdicts]))
    print('\n'.join([advice_table(verdicts), '', *notes, '', *words]))


if __name__ == '__main__':
    run_tool(main)
