#!/usr/bin/env bash
# Test on several processes: tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of tools/test.py]
# Without a GPU, GPUS processes test on the CPU (gloo). NNODES, NODE_RANK, MASTER_ADDR and PORT as in MMDetection and MMAction2.
set -euo pipefail
CONFIG=${1:?usage: tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of tools/test.py]}
CHECKPOINT=${2:?usage: tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of tools/test.py]}
GPUS=${3:?usage: tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of tools/test.py]}
${PYTHON:-python} -m torch.distributed.run --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --nproc_per_node="$GPUS" --master_port="${PORT:-29500}" "$(dirname "$0")/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "${@:4}"
