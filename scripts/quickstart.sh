#!/usr/bin/env bash
# From a fresh clone to a trained model: makes .venv if needed, installs, runs the main job.
# Further arguments go to the main job, such as --config.epochs=3.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
ensure_environment
python -m aetheria.main --config=configs/mlp.py "$@"
