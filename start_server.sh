#!/usr/bin/env bash
# Install what is missing, then start the service.
#
#   ./start_server.sh                 use the settings in the environment and in .env
#   ./start_server.sh --demo          transcribe a sample with a small model and a local S3, then keep running
#   ./start_server.sh --demo-cluster  the same for a cluster of four nodes, with a local PostgreSQL; kill one of them
#   ./start_server.sh --demo --exit   exit after the transcripts, with status 0 if they are right; also --demo-cluster
#   ./start_server.sh --migrate       bring the tables of a cluster in DATABASE_URL up to date, then exit
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/setup.sh
source "$here/scripts/setup.sh"

demo=
migrate=false
exit_option=
for argument in "$@"; do
    case $argument in
        --demo) demo=demo ;;
        --demo-cluster) demo=demo_cluster ;;
        --exit) exit_option=--exit ;;
        --migrate) migrate=true ;;
        -h | --help)
            sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        *) fail "Unknown option $argument: use --demo, --demo-cluster, --exit or --migrate (see --help)." ;;
    esac
done

cd "$here"
if [[ -n $demo ]]; then
    set_up demo dev
    if [[ $demo == demo_cluster ]]; then
        set_up cluster dev
    else
        set_up_if_available whisper-tiny-en # otherwise the demo uses the bundled model, and says so
    fi
    exec "$venv/bin/python" "scripts/$demo.py" $exit_option
fi
[[ -z $exit_option ]] || fail "--exit requires --demo or --demo-cluster: use both."
if [[ $migrate == true ]]; then
    set_up cluster dev
    exec "$venv/bin/python" -m app migrate
fi
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
