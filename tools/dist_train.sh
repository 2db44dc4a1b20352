#!/usr/bin/env bash
# Train on several processes of one or more machines: tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
# Without a GPU, GPUS processes train on the CPU (gloo). NNODES, NODE_RANK, MASTER_ADDR and PORT as in MMDetection and MMAction2.
set -euo pipefail
CONFIG=${1:?usage: tools/dist_train.sh CONFIG GPUS [options of tools/train.py]}
GPUS=${2:?usage: tools/dist_train.sh CONFIG GPUS [options of tools/train.py]}
${PYTHON:-python} -m torch.distributed.run --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --nproc_per_node="$GPUS" --master_port="${PORT:-29500}" "$(dirname "$0")/train.py" "$CONFIG" --launcher pytorch "${@:3}"
