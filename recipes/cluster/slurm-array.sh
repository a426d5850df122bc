#!/bin/bash
# An ablation as a SLURM array. Each task makes one share of the prompts.
#
#   sbatch --export=ALL,CONFIG=fig10.toml,MODEL=/models/sdxl-base,OUTPUT=/scratch/fig10 recipes/cluster/slurm-array.sh
#
# After a time limit or a lost node, submit it again. Finished images are not made again, and the array may have another size
# then. When all tasks are done, run:
#
#   atedm ablate merge /scratch/fig10 --output /scratch/fig10-all
#
#SBATCH --job-name=ablate
#SBATCH --array=0-7
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=48G
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --output=ablate-%A-%a.log
set -euo pipefail

: "${CONFIG:?the configuration, a TOML file}"
: "${MODEL:?the checkpoint, a folder}"
: "${OUTPUT:?the folder for results, on a file system that all nodes see}"

# The program takes the share from SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT.
exec "${ATEDM:-atedm}" ablate "$CONFIG" --model "$MODEL" --output "$OUTPUT" --resume --quiet \
    --backend "${BACKEND:-candle}" --device "${DEVICE:-cuda:0}" --dtype "${DTYPE:-bf16}"
