#!/usr/bin/env bash
# The whole check: makes .venv if needed, installs the dev extra, then lint, types, imports, tests.
# --long also runs what repeats a proof more often; other arguments go to pytest, such as
# -m "not slow". AETHERIA_EXTRAS=dev,torch installs more, TEST_PROCESSES says how many tests run
# side by side (pyproject.toml: two).
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
ensure_environment "${AETHERIA_EXTRAS:-dev}"
ruff check .
ruff format --check .
pyright
python -m pytest ${TEST_PROCESSES:+--numprocesses "$TEST_PROCESSES"} "$@"
