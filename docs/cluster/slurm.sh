#!/usr/bin/env bash
# One training on several nodes, one worker each: sbatch docs/cluster/slurm.sh --id birds --data_dir /shared/birds ...
# --data_dir and --logdir_root must lie on a file system that all nodes share.
#SBATCH --job-name=tierwave
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
set -euo pipefail

PORT=${PORT:-12345}
NODES=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
export WORKERS=$(printf "\"%s:${PORT}\"\n" $NODES | paste -sd,)

# A node that fails ends the job; --requeue starts it again, and training goes on from its newest checkpoint.
srun --kill-on-bad-exit=1 bash -c '
    export TF_CONFIG="{\"cluster\": {\"worker\": [$WORKERS]}, \"task\": {\"type\": \"worker\", \"index\": $SLURM_PROCID}}"
    exec python train.py --strategy multiworker --checkpoint_minutes 5 "$@"
' worker "$@"
