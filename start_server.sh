#!/usr/bin/env bash
# Sets up what is missing, then serves.
#
#   ./start_server.sh                 serves with the settings of the environment and of .env
#   ./start_server.sh --demo          shows the whole thing on the bundled model and a local S3, then stays up
#   ./start_server.sh --demo --exit   the same, but ends after the transcript: 0 if it is right
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/setup.sh
source "$here/scripts/setup.sh"

demo=false
leave=
for argument in "$@"; do
    case $argument in
        --demo) demo=true ;;
        --exit) leave=--exit ;;
        -h | --help)
            sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        *) fail "$argument is not an option: there are --demo and --exit (see --help)." ;;
    esac
done

cd "$here"
if [[ $demo == true ]]; then
    set_up demo dev
    exec "$venv/bin/python" scripts/demo.py $leave
fi
[[ -z $leave ]] || fail "--exit goes with --demo: give both."
set_up runtime cuda demo dev
if has_nvidia_driver; then
    set_up cuda
fi
if [[ -n ${OTEL_EXPORTER_OTLP_ENDPOINT:-}${OTEL_EXPORTER_OTLP_TRACES_ENDPOINT:-}${OTEL_TRACES_EXPORTER:-} ]]; then
    set_up otel dev # traces
fi
exec "$venv/bin/python" -m app
