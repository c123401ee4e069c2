#!/usr/bin/env bash
# check_python.sh PYTHON: one sentence, and status 2, when there is no MindSpore for this interpreter.
"$1" - <<'END'
import sys

found = "%d.%d" % sys.version_info[:2]
if not (3, 9) <= sys.version_info[:2] <= (3, 12):
    sys.stderr.write(
        "error: MindSpore has no package for Python %s, only for 3.9 to 3.12: give another one, as in "
        "PYTHON=python3.11 bash COMMAND\n" % found
    )
    sys.exit(2)
END
