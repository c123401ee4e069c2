#!/usr/bin/env bash
# Install what the tests need into .venv and run them all, on both cores. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/pip install -q -r requirements-test.txt
OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist loadgroup -q -rs "$@"
