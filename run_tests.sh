#!/usr/bin/env bash
# Sets up what is missing, then runs every check and every test. Arguments go to pytest (and skip the other checks):
#
#   ./run_tests.sh
#   ./run_tests.sh -k delivery
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/setup.sh
source "$here/scripts/setup.sh"
set_up dev
cd "$here"
export PATH="$venv/bin:$PATH"
# The bundled model is small: further threads of it would wait for each other, more than they help.
export OMP_NUM_THREADS=1

if [[ $# -gt 0 ]]; then
    exec python -m pytest "$@"
fi
step() {
    printf '\n== %s\n' "$1"
    shift
    "$@"
}
step "Format" ruff format --check .
step "Lint" ruff check .
step "Types" mypy
step "Imports" lint-imports --verbose
step "Advisories" python scripts/audit.py
# The tests of the API and of faults beside all others: each half keeps about one core busy.
all_tests() {
    local said status=0
    said=$(mktemp)
    coverage run -m pytest tests/api tests/faults >"$said" 2>&1 &
    coverage run -m pytest --ignore=tests/api --ignore=tests/faults || status=$?
    wait $! || status=$?
    cat "$said"
    rm -f "$said"
    return "$status"
}
step "Tests" all_tests
coverage combine --quiet
step "Coverage" coverage report --fail-under=94
