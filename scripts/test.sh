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
types="$(mktemp)" files=() # none: what pyproject.toml names
trap 'rm -f "$types"' EXIT
if ! python -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)'; then
    echo "types: without PyTorch, those of its files are not checked"
    mapfile -t files < <(find aetheria models configs -name '*.py' -not -path 'aetheria/hardware/torch/*')
fi
pyright "${files[@]}" >"$types" 2>&1 &
pyright=$! status=0
python -m pytest ${TEST_PROCESSES:+--numprocesses "$TEST_PROCESSES"} "$@" || status=$?
wait "$pyright" || status=$?
cat "$types"
exit "$status"
