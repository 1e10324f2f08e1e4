#!/usr/bin/env bash
# Regenerate the lock files in requirements/ from pyproject.toml, with hashes and without download hosts. Needs uv.
# The first six agree with each other, because the largest set is resolved first and constrains the others. Each of the
# last two has a model and nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."

lock() {
    local name=$1
    shift
    uv pip compile "$@" --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
        --no-emit-find-links --custom-compile-command "scripts/lock.sh" --quiet --output-file "requirements/$name.lock"
}

everything=requirements/.everything  # a name that is always the same, since the files below quote it
trap 'rm -f "$everything"' EXIT
uv pip compile pyproject.toml --extra dev --extra cuda --universal --python-version 3.11 --quiet --no-header \
    --no-annotate --output-file "$everything" ${1:+"$@"}
lock runtime pyproject.toml --constraint "$everything"
lock cuda pyproject.toml --extra cuda --constraint "$everything"
lock cluster pyproject.toml --extra cluster --constraint "$everything"
lock otel pyproject.toml --extra otel --constraint "$everything"
lock demo pyproject.toml --extra demo --constraint "$everything"
lock dev pyproject.toml --extra dev --constraint "$everything"
lock whisper-tiny-en --group whisper-tiny-en
lock whisper-base --group whisper-base
