# Functions to install the Python environment in .venv from the lock files; sourced by other scripts.
# shellcheck shell=bash
# shellcheck disable=SC2154  # the script that sources this sets $here
venv=${TRANSCRIPTION_VENV:-$here/.venv}

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

# set_up NAME [LARGER...]: install requirements/NAME.lock, unless it or a larger set is already installed.
set_up() {
    is_set_up "$@" || install_set "$1" tail -n 25 || fail "The installation failed for the reason above. Fix it and try again."
}

# set_up_if_available NAME: do the same for packages that are not required. If they can't be installed, print the reason
# and return as if they were. Without retries, and with 5 s for each response, a machine without a network soon goes on.
set_up_if_available() {
    is_set_up "$1" ||
        PIP_RETRIES=0 PIP_DEFAULT_TIMEOUT=5 UV_HTTP_RETRIES=0 UV_HTTP_TIMEOUT=5 install_set "$1" grep -im 1 error || true
}

is_set_up() {
    local name
    for name in "$@"; do
        if [[ -x $venv/bin/python ]] && cmp -s "$here/requirements/$name.lock" "$venv/.installed-$name"; then
            return
        fi
    done
    return 1
}

# install_set NAME FILTER...: install requirements/NAME.lock. If that fails, print its output through FILTER and return 1.
install_set() {
    local name=$1 python log started=$SECONDS
    shift
    python=$(find_python) || exit 1
    log=$(mktemp)
    printf 'Installing the %s packages in %s (once)' "$name" "$venv" >&2
    install "$python" "$here/requirements/$name.lock" >"$log" 2>&1 &
    if ! show_progress $!; then
        "$@" <"$log" >&2
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
    cp "$here/requirements/$name.lock" "$venv/.installed-$name" || return
    printf ' done in %d s.\n' $((SECONDS - started)) >&2
}

# Print a dot every few seconds while process $1 runs, and return its exit status.
show_progress() {
    local seconds=0
    while kill -0 "$1" 2>/dev/null; do
        sleep 0.2
        seconds=$((seconds + 1))
        ((seconds % 15)) || printf '.' >&2
    done
    wait "$1" && return
    printf '\n' >&2
    return 1
}

# Print the path of a suitable Python; PYTHON takes precedence. Without uv it must be able to create environments.
find_python() {
    local candidate needs='sys'
    has_uv || needs='sys, venv, ensurepip'
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python3.14; do
        if "$candidate" -c "import $needs; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))" >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
    done
    fail "Found no Python 3.11 to 3.14 with the venv module: install one (Debian: python3 and python3-venv), or name" \
        "one with PYTHON=/path/to/python3."
}

install() {
    local python=$1 lock=$2
    if ! "$venv/bin/python" -c '' 2>/dev/null; then
        if [[ -e $venv && ! -f $venv/pyvenv.cfg ]] && ! rmdir "$venv" 2>/dev/null; then
            printf '%s exists but is not a Python environment: set TRANSCRIPTION_VENV to another path.\n' "$venv"
            return 1
        fi
        rm -rf "$venv"
    fi
    if has_uv; then
        [[ -d $venv ]] || uv venv --quiet --python "$python" "$venv" || return
        uv pip install --python "$venv/bin/python" --require-hashes --requirement "$lock"
        return
    fi
    # An environment created by uv has no pip.
    "$venv/bin/python" -m pip --version || "$python" -m venv --clear "$venv" || return
    "$venv/bin/python" -m pip install --disable-pip-version-check --require-hashes --requirement "$lock"
}

has_uv() {
    command -v uv >/dev/null 2>&1
}

has_nvidia_driver() {
    [[ -e /proc/driver/nvidia/version || -e /dev/nvidiactl || -e /dev/dxg ]] || command -v nvidia-smi >/dev/null 2>&1
}
