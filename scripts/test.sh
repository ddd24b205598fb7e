#!/usr/bin/env bash
# The whole check: makes .venv if needed, installs the dev extra, then lint, types, imports, tests.
# Further arguments go to pytest, such as -m "not slow". AETHERIA_EXTRAS=dev,torch installs more,
# TEST_PROCESSES says how many tests run side by side.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
ensure_environment "${AETHERIA_EXTRAS:-dev}"
ruff check .
ruff format --check .
pyright
# In processes of whole files; a test that hangs is ended and named.
python -m pytest --numprocesses "${TEST_PROCESSES:-2}" --timeout 900 "$@"
