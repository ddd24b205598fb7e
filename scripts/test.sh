#!/usr/bin/env bash
# The whole check: makes .venv if needed, installs the dev extra, then lint and tests, and beside the
# tests the types, printed last.
# --long also runs what repeats a proof more often; other arguments go to pytest, such as
# -m "not slow". AETHERIA_EXTRAS=dev,torch installs more, TEST_PROCESSES says how many tests run
# side by side (pyproject.toml: three).
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
ensure_environment "${AETHERIA_EXTRAS:-dev}"
ruff check .
ruff format --check .
unset PYTHONDONTWRITEBYTECODE # the tests start some two hundred processes
types="$(mktemp)"
trap 'rm -f "$types"' EXIT
pyright >"$types" 2>&1 &
pyright=$! status=0
python -m pytest ${TEST_PROCESSES:+--numprocesses "$TEST_PROCESSES"} "$@" || status=$?
wait "$pyright" || status=$?
cat "$types"
exit "$status"
