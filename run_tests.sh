#!/usr/bin/env bash
# Check and test the project. The Python environment in .venv is set up first if it is missing.
#
#   ./run_tests.sh                 format, lint, types, imports, docstrings and the quick tests
#   ./run_tests.sh --all           the same with every test, and known vulnerabilities
#   ./run_tests.sh --cluster       the tests of the contract against a node of a cluster; --all runs the quick ones
#   ./run_tests.sh --coverage      the lines of the service that the quick tests run, which take a minute longer then
#   ./run_tests.sh -k delivery     pytest only, with these arguments
#
# The last form runs quick tests too; --all among its arguments adds the others.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/setup.sh
source "$here/scripts/setup.sh"
set_up dev
if [[ $* == --all ]]; then
    # The tests on real models are skipped without them.
    set_up_if_available whisper-tiny-en
    set_up_if_available whisper-base
fi
cd "$here"
export PATH="$venv/bin:$PATH"
# The demo model is so small that a second thread slows it down.
export OMP_NUM_THREADS=1
# Each worker would compile all tests again, which takes it 8 s.
unset PYTHONDONTWRITEBYTECODE

if [[ $# -gt 0 && $* != --all && $* != --cluster && $* != --coverage ]]; then
    exec python -m pytest "$@"
fi

step() {
    printf '\n== %s\n' "$1"
    shift
    "$@"
}

# mypy uses one core for most of a minute, so it runs while the other checks and the tests do.
types_output=$(mktemp)
mypy >"$types_output" 2>&1 &
types=$!
trap 'kill "$types" 2>/dev/null || true; rm -f "$types_output"' EXIT
types_result() {
    local status=0
    wait "$types" || status=$?
    cat "$types_output"
    return "$status"
}

# Workers that have finished take tests over from the others.
quick_tests() {
    python -m pytest --quiet --numprocesses auto --dist worksteal
}

# Many of these tests wait for another process, so there are more workers than cores.
all_tests() {
    python -m pytest --quiet --all -m "not real" --numprocesses 4 --dist worksteal
}

cluster_tests() {
    python -m pytest --quiet --cluster "$@" --numprocesses auto --dist worksteal
}

measured_quick_tests() {
    coverage erase
    coverage run -m pytest --quiet --all -m "smoke or not full" --numprocesses auto --dist worksteal
    coverage combine --quiet
    coverage report --fail-under=93
}

# In one process, because each model is loaded once and uses all cores.
real_tests() {
    python -m pytest --quiet --all -m real tests/real
}

if [[ $* == --cluster ]]; then
    step "Tests of the contract in a cluster" cluster_tests --all
    exit
fi
if [[ $* == --coverage ]]; then
    step "Quick tests, with coverage" measured_quick_tests
    exit
fi

step "Format" ruff format --check .
step "Lint" ruff check .
step "Imports" lint-imports
step "Docstrings" python scripts/check_docstrings.py
if [[ $* == --all ]]; then
    step "Advisories" python scripts/audit.py
    step "Tests" all_tests
    step "Quick tests of the contract in a cluster" cluster_tests
    step "Real models" real_tests
else
    step "Quick tests" quick_tests
fi
step "Types" types_result
