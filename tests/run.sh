#!/usr/bin/env bash
# Sets up like run.sh, with the test tools, then runs everything: style, types, shell scripts, tests. Options go to pytest.
#
#   tests/run.sh
#   tests/run.sh -m 'not slow' -x tests/utils
#   tests/run.sh --set-up-only
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. utils/env.sh
ensure_python requirements.txt requirements-home.txt requirements-sherpa.txt requirements-av.txt requirements-hub.txt requirements-lm.txt requirements-test.txt
[[ ${1:-} != --set-up-only ]] || exit 0
# nproc itself obeys that variable. One more than cores, as some tests wait for other processes.
workers=$(($(env -u OMP_NUM_THREADS nproc) + 1))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# Hundreds of processes import the same files: their bytecode is kept, whatever the surroundings say.
export PYTHONDONTWRITEBYTECODE=

python3 -m ruff check .
python3 -m ruff format --check .
python3 -m mypy
find . \( -path ./.venv -o -path ./.git -o -path ./data -o -path ./exp \) -prune -o -name '*.sh' -print0 |
  xargs -0 shellcheck --external-sources .ci/run
# in the order of tests/conftest.py
exec python3 -m pytest -q -n "$workers" --dist loadfile --no-loadscope-reorder "$@"
