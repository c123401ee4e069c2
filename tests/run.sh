#!/usr/bin/env bash
# Install what the tests need into .venv and run them, on two cores: all, or with `quick` first those that take seconds.
# Further arguments go to pytest. PYTHON=python3.11 chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1
if [ ! -x .venv/bin/python ]; then
  bash tools/check_python.sh "${PYTHON:-python3}"
  "${PYTHON:-python3}" -m venv .venv
fi
.venv/bin/pip install -q --no-compile -r requirements-test.txt
.venv/bin/pip install -q --no-compile --no-deps -r requirements-test-alone.txt
which=()
if [ "${1:-}" = quick ]; then
  shift
  which=(-m "not slow")
  echo "quick: without the tests marked slow (whole commands, compiled networks): bash tests/run.sh runs all"
fi
# MindSpore compiles a graph in two thirds of the time with the allocator that it brings along; most of the tests' time is that
allocator=$(find .venv/lib/python3*/site-packages/mindspore/lib -name 'libjemalloc.so*' -print -quit 2>/dev/null || true)
LD_PRELOAD=${LD_PRELOAD:-${allocator:+$PWD/$allocator}} OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder -q -rs "${which[@]}" "$@"
