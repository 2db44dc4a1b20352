"""Give a trained network early exits: python tools/graft.py CONFIG CHECKPOINT --out-dir work_dirs/graft.

The network stays as it is; its last exit gives its own answers. A small latent branch reads its maps and carries the early exits. It is
trained on maps that the network gives for the training data once. OUT_DIR gets config, checkpoint, policy and the graphs to serve.
"""

import argparse
import logging
import time
from pathlib import Path
from typing import Any

import dynperceiver  # noqa: F401  its fixes for OpenMMLab on today's PyTorch must come before anything is loaded
from dynperceiver.benchmark.exit_times import time_exits
from dynperceiver.calibration.calibrate import calibrate
from dynperceiver.calibration.held_out_logits import collect_logits, sample_form
from dynperceiver.calibration.report import policy_table
from dynperceiver.deployment.export import export, read_preprocessing
from dynperceiver.grafting import choose_cuts, proposal_table, train_on_maps
from dynperceiver.inference import BACKENDS, freeze
from dynperceiver.launch import build_calibration, check_at_least, checkpoint_config, image_size, read_config, run_tool, tool_parser
from dynperceiver.launch.grafting import (
    SplitViews,
    build_graft,
    cache_split,
    find_proposals,
    grafted_config,
    save_graft,
    source_network,
)
from dynperceiver.models import network_with_exits


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = tool_parser(__doc__, config='config of a backbone-only baseline; with --model, of a classifier for the data')
    parser.add_argument('checkpoint', nargs='?', help='checkpoint of this config; none with --model')
    parser.add_argument('--model', metavar='PACKAGE.MODULE:FUNCTION', help='function that makes the network, for networks of any make')
    parser.add_argument('--weights', metavar='FILE', help='state dict of the network of --model')
    parser.add_argument('--out-dir', type=Path, default=Path('work_dirs/graft'), help='output folder (default: %(default)s)')
    cut_help = 'where the exits stand: stage1 to stage3, names of modules, or auto to have them proposed (default: stage2 stage3)'
    parser.add_argument('--cuts', nargs='+', default=['stage2', 'stage3'], metavar='NAME', help=cut_help)
    parser.add_argument('--num-latents', type=int, default=8, metavar='N', help='tokens of the latent code (default: %(default)s)')
    parser.add_argument('--latent-width', type=int, default=128, metavar='N', help='its channels (default: %(default)s)')
    depth_help = 'self-attention layers after each read (default: %(default)s)'
    parser.add_argument('--latent-depth', type=int, default=0, metavar='N', help=depth_help)
    lift_help = 'channels to which exits lift the pixels of image maps; 0 takes maps as they are (default: %(default)s)'
    parser.add_argument('--lift-channels', type=int, default=256, metavar='N', help=lift_help)
    parser.add_argument('--max-tokens', type=int, default=25, metavar='N', help='tokens of a read (default: %(default)s)')
    views_help = 'views of each sample, all but one augmented (default: %(default)s)'
    parser.add_argument('--views', type=int, default=5, metavar='N', help=views_help)
    parser.add_argument('--epochs', type=int, default=25, help='epochs on the cached maps (default: %(default)s)')
    parser.add_argument('--batch-size', type=int, default=64, help='samples in a training batch (default: %(default)s)')
    parser.add_argument('--lr', type=float, default=2e-3, help='largest learning rate (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='random seed (default: %(default)s)')
    parser.add_argument('--unlabelled', action='store_true', help='learn from the network alone; what is calibrated is agreement with it')
    parser.add_argument('--cache-dir', type=Path, metavar='DIR', help='folder of the cached maps (default: OUT_DIR/cache)')
    drop_help = 'accuracy drop that the policy may have at most; 0.01 is one percentage point (default: %(default)s)'
    parser.add_argument('--max-accuracy-drop', type=float, default=0.01, metavar='X', help=drop_help)
    parser.add_argument('--backend', choices=list(BACKENDS), default='onnxruntime', help='what times are taken on (default: %(default)s)')
    parser.add_argument('--no-export', action='store_true', help='write no graphs to serve')
    args = parser.parse_args()
    for name in ('num_latents', 'latent_width', 'views', 'epochs', 'batch_size'):
        check_at_least(f'--{name.replace("_", "-")}', getattr(args, name), 1)
    if (args.model is None) == (args.checkpoint is None):
        parser.error('pass the CHECKPOINT of CONFIG, or --model PACKAGE.MODULE:FUNCTION')
    return args


def graft(args: argparse.Namespace) -> tuple[Path, Path]:
    """Build, cache, train, save."""
    source = read_config(args.config, args.cfg_options)
    options: dict[str, Any] = dict(function=args.model, weights=args.weights, unlabelled=args.unlabelled)
    branch = {name: getattr(args, name) for name in ('num_latents', 'latent_width', 'latent_depth', 'max_tokens')}
    branch['lift_channels'] = args.lift_channels or None
    size, cuts = image_size(None, source), args.cuts
    if cuts == ['auto']:
        network = source_network(source, args.checkpoint, args.model, args.weights)
        proposals = find_proposals(source, network, size)
        cuts = choose_cuts(proposals)
        print(proposal_table(proposals, cuts), flush=True)
    cfg = grafted_config(source, cuts, size, **options, **branch)
    made = build_graft(cfg, source, args.checkpoint)
    views = SplitViews(source, made.model, 'train', args.seed, args.unlabelled)
    print(f'[1/4] maps of {len(views.dataset)} training samples in {args.views} views', flush=True)
    cache = cache_split(made, views, args.views, args.cache_dir or args.out_dir / 'cache')
    print(f'[2/4] training of the exits, {args.epochs} epochs', flush=True)
    settings = dict(epochs=args.epochs, batch_size=args.batch_size, lr=args.lr, seed=args.seed, unlabelled=args.unlabelled)
    train_on_maps(made.network, cache, args.out_dir / 'training', **settings)
    return save_graft(made, args.out_dir, views, {'graft': settings})


def main() -> None:
    """Graft, calibrate, export, say what was reached."""
    args, start = parse_args(), time.monotonic()
    logging.disable(logging.WARNING)
    config, checkpoint = graft(args)
    print('[3/4] calibration on held-out samples', flush=True)
    calibration = build_calibration(checkpoint_config(config, str(checkpoint), None, str(args.out_dir / 'calibration')))
    model, loader = calibration.model, calibration.loader
    logits = collect_logits(model, loader, calibration.fingerprint)
    labels_S = logits.logits_ESK[-1].argmax(1) if args.unlabelled else logits.labels_S
    cost_ms, machine = time_exits(model, loader, args.backend, 1)
    costs = dict(cost_ms=cost_ms, cost_gflops=sample_form(model, loader.dataset[0]['inputs'].shape).cost_gflops(network_with_exits(model)))
    origin = dict(checkpoint=logits.checkpoint, calibration_set=calibration.fingerprint, machine=machine)
    policy = calibrate(logits.logits_ESK, labels_S, max_accuracy_drop=args.max_accuracy_drop, **costs, **origin)
    policy.save(args.out_dir / 'policy.json')
    print(policy_table(policy, logits.logits_ESK, labels_S))
    if not args.no_export:
        print('[4/4] export', flush=True)
        frozen = freeze(model, image_size(None, read_config(config)))
        export(frozen, args.out_dir / 'served', policy, preprocessing=read_preprocessing(model))
    print(f'{args.out_dir} is written in {time.monotonic() - start:.0f} s; next: python tools/test.py {config} {checkpoint}')


if __name__ == '__main__':
    run_tool(main)
