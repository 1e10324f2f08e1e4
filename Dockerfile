# The service in a container, for a CPU (the last target, so the default) or an NVIDIA GPU:
#
#   docker build --tag transcription .
#   docker build --tag transcription:cuda --target cuda .
#
# Another BASE needs glibc, useradd, and a python3 of version 3.11 to 3.14 with its venv module.
ARG BASE=docker.io/library/python:3.12.12-slim-bookworm

# --- Packages, installed from the locks with hashes -------------------------------------------------------------

FROM ${BASE} AS venv
RUN python3 -m venv /opt/venv

# With those of a cluster, which are only imported in one. pip is removed afterwards: what is not in the image needs no
# updates.
FROM venv AS cpu-packages
COPY requirements/cluster.lock /tmp/
RUN /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes --requirement /tmp/cluster.lock \
    && /opt/venv/bin/pip uninstall --yes pip

FROM venv AS cuda-packages
COPY requirements/cluster.lock /tmp/
COPY requirements/cuda.lock /tmp/
RUN /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes \
        --requirement /tmp/cluster.lock --requirement /tmp/cuda.lock \
    && /opt/venv/bin/pip uninstall --yes pip

# --- Shared by both images -----------------------------------------------------------------------------------------

FROM ${BASE} AS service
# A fixed user id, so that volumes keep their owner. New volumes inherit the owner and mode of these directories.
RUN groupadd --gid 10001 transcription \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /models --shell /usr/sbin/nologin transcription \
    && install --directory --owner=10001 --group=10001 --mode=0700 /data /models
WORKDIR /opt/transcription
COPY LICENSE ./
COPY app ./app
# The root file system can be read-only: the service writes to /data (jobs), /models (the hub's cache) and /tmp.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    HOST=0.0.0.0 \
    DATA_DIR=/data \
    HF_HOME=/models
VOLUME ["/data", "/models"]
EXPOSE 8000
USER 10001:10001
STOPSIGNAL SIGTERM
# Liveness, not readiness, because a model can take long to load. Ignores proxy variables.
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s CMD ["python", "-c", "import os, urllib.request as r; \
r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ.get('PORT', '8000') + '/health', timeout=8)"]
ENTRYPOINT ["python", "-m", "app"]
LABEL org.opencontainers.image.title="Transcription service" \
    org.opencontainers.image.licenses="MIT"

# --- The images ---------------------------------------------------------------------------------------------------

# The host provides the driver, through NVIDIA's container runtime, which reads these two variables. cuBLAS is a package
# in the lock. Nothing else of CUDA is needed.
FROM service AS cuda
COPY --from=cuda-packages /opt/venv /opt/venv
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM service AS cpu
COPY --from=cpu-packages /opt/venv /opt/venv
