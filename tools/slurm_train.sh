#!/usr/bin/env bash
# Train on a slurm cluster: [GPUS=8 GPUS_PER_NODE=8 CPUS_PER_TASK=5 SRUN_ARGS=...] tools/slurm_train.sh PARTITION JOB_NAME CONFIG [options of tools/train.py]
# One torchrun per node starts the node's processes and joins the others.
set -euo pipefail
USAGE='usage: [GPUS=8 GPUS_PER_NODE=8] tools/slurm_train.sh PARTITION JOB_NAME CONFIG [options of tools/train.py]'
PARTITION=${1:?$USAGE} JOB_NAME=${2:?$USAGE} CONFIG=${3:?$USAGE}
GPUS=${GPUS:-8} GPUS_PER_NODE=${GPUS_PER_NODE:-8}
if ((GPUS < GPUS_PER_NODE)); then GPUS_PER_NODE=$GPUS; fi
export NODES=$(((GPUS + GPUS_PER_NODE - 1) / GPUS_PER_NODE)) GPUS_PER_NODE CONFIG PORT=${PORT:-29500} PYTHON=${PYTHON:-python}
TRAIN=$(dirname "$0")/train.py
export TRAIN
# shellcheck disable=SC2016,SC2086  # the inner shell on each node expands these; SRUN_ARGS may hold several words
srun -p "$PARTITION" --job-name="$JOB_NAME" --gres="gpu:$GPUS_PER_NODE" --nodes="$NODES" --ntasks="$NODES" --ntasks-per-node=1 \
    --cpus-per-task="$((${CPUS_PER_TASK:-5} * GPUS_PER_NODE))" --kill-on-bad-exit=1 ${SRUN_ARGS:-} bash -c '
    MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    exec "$PYTHON" -m torch.distributed.run --nnodes="$NODES" --node_rank="$SLURM_NODEID" --master_addr="$MASTER_ADDR" \
        --nproc_per_node="$GPUS_PER_NODE" --master_port="$PORT" "$TRAIN" "$CONFIG" --launcher pytorch "$@"' _ "${@:4}"
