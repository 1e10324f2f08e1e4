#!/usr/bin/env bash
# Check and test the project. The Python environment in .venv is set up first if it is missing.
#
#   ./run_tests.sh                 format, lint, types, imports, docstrings and the quick tests
#   ./run_tests.sh --all           the same with every test, coverage and known vulnerabilities
#   ./run_tests.sh -k delivery     pytest only, with these arguments
#
# The last form runs quick tests too; --all among its arguments adds the others.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/setup.sh
source "$here/scripts/setup.sh"
set_up dev
cd "$here"
export PATH="$venv/bin:$PATH"
# The demo model is so small that a second thread slows it down.
export OMP_NUM_THREADS=1

if [[ $# -gt 0 && $* != --all ]]; then
    exec python -m pytest "$@"
fi

step() {
    printf '\n== %s\n' "$1"
    shift
    "$@"
}

# Workers that are done take tests over from the others.
quick_tests() {
    python -m pytest --quiet --numprocesses auto --dist worksteal
}

# Many of these tests wait for a process, so there are more workers than cores.
all_tests() {
    coverage erase
    coverage run -m pytest --quiet --all --numprocesses 4 --dist worksteal
    coverage combine --quiet
    coverage report --fail-under=94
}

step "Format" ruff format --check .
step "Lint" ruff check .
step "Types" mypy
step "Imports" lint-imports
if [[ -f scripts/check_docstrings.py ]]; then
    step "Docstrings" python scripts/check_docstrings.py
fi
if [[ $* == --all ]]; then
    step "Advisories" python scripts/audit.py
    step "All tests" all_tests
else
    step "Quick tests" quick_tests
fi
