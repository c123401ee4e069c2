#!/usr/bin/env bash
# Format, lint and types, as CI checks them; in the environment of tests/run.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
.venv/bin/ruff format --check -q .
.venv/bin/ruff check -q .
found=$(PYRIGHT_PYTHON_IGNORE_WARNINGS=1 .venv/bin/pyright) || { echo "$found"; exit 1; }
