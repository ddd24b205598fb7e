#!/usr/bin/env bash
# The whole check: makes .venv if needed, installs the dev extra, then lint, types, imports, tests.
# Further arguments go to pytest, such as -m "not slow". AETHERIA_EXTRAS=dev,torch installs more.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
ensure_environment "${AETHERIA_EXTRAS:-dev}"
ruff check .
ruff format --check .
pyright
python -m pytest "$@"
