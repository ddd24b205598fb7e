# Sourced by quickstart.sh and test.sh: makes .venv if needed, installs Aetheria into it, activates it.
# Usage: ensure_environment [EXTRA,EXTRA]. PYTHON=python3.13 chooses the interpreter of a new .venv.

ensure_environment() {
    local extra="${1:-}" python="${PYTHON:-python3}" stamp
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "python: expected Python 3.11 or later as '$python', got $("$python" --version 2>&1);" \
            "set PYTHON" >&2
        exit 2
    fi
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    # shellcheck disable=SC1091
    . .venv/bin/activate
    stamp=".venv/installed${extra:+-$extra}"
    if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
        echo "installing into .venv (a few minutes the first time)"
        python -m pip install --quiet --editable ".${extra:+[$extra]}"
        touch "$stamp"
    fi
}
