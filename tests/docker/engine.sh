#!/usr/bin/env bash
# Starts a private Docker engine of Debian's packages and, where no registry of images is at hand, makes
# stand-ins of the three base images from Debian's packages and from the Label Studio in .label-studio.
# usage: engine.sh FOLDER    as root; the engine listens on FOLDER/docker.sock and its id is in FOLDER/dockerd.pid
set -euo pipefail
folder=$1
here=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$folder"
export DOCKER_HOST=unix://$folder/docker.sock DOCKER_BUILDKIT=1

if ! docker info >/dev/null 2>&1; then
    nohup dockerd --data-root "$folder/data" --exec-root "$folder/exec" --pidfile "$folder/dockerd.pid" \
        -H "$DOCKER_HOST" >"$folder/dockerd.log" 2>&1 &
    for _ in $(seq 60); do docker info >/dev/null 2>&1 && break; sleep 0.5; done
    docker info >/dev/null 2>&1 || { tail -5 "$folder/dockerd.log" >&2; exit 1; }
fi

here_or_pulled() { docker image inspect "$1" >/dev/null 2>&1 || timeout 120 docker pull -q "$1" >/dev/null 2>&1; }
debian() { # packages, separated by commas
    mmdebstrap --quiet --variant=minbase --include="ca-certificates,$1" bookworm - \
        "deb $(awk '/^URIs:/ { print $2; exit }' /etc/apt/sources.list.d/debian.sources) bookworm main"
}

here_or_pulled python:3.11-slim-bookworm || {
    base=$folder/python; rm -rf "$base"; mkdir -p "$base"
    debian python3.11,python3.11-venv,python3.11-dev,python3-pip | docker import - standin/python >/dev/null
    cp /etc/ssl/certs/ca-certificates.crt "$base/ca.crt" # the machine's own, where a mirror needs it
    cat >"$base/Dockerfile" <<'DOCKERFILE'
FROM standin/python
ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
RUN rm -f /usr/lib/python3.11/EXTERNALLY-MANAGED && cd /usr/local/bin \
    && ln -s /usr/bin/python3.11 python && ln -s /usr/bin/python3.11 python3 && ln -s /usr/bin/pip3 pip
COPY ca.crt /etc/ssl/certs/ca-certificates.crt
RUN printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >/etc/pip.conf
DOCKERFILE
    docker build -q -t python:3.11-slim-bookworm "$base" >/dev/null
}

here_or_pulled redis:7.2-bookworm || {
    base=$folder/redis; rm -rf "$base"; mkdir -p "$base"
    debian redis-server,redis-tools | docker import - standin/redis >/dev/null
    cat >"$base/Dockerfile" <<'DOCKERFILE'
FROM standin/redis
RUN groupmod -g 999 redis && usermod -u 999 redis && mkdir -p /data && chown redis:redis /data
WORKDIR /data
VOLUME /data
DOCKERFILE
    docker build -q -t redis:7.2-bookworm "$base" >/dev/null
}

label_studio=heartexlabs/label-studio:$(sed -n 's/^LABEL_STUDIO_VERSION := //p' "$here/Makefile")
here_or_pulled "$label_studio" || {
    cat >"$folder/label-studio.dockerfile" <<'DOCKERFILE'
FROM python:3.11-slim-bookworm
COPY . /opt/label-studio
RUN pip install -q --target /opt/label-studio async-timeout \
    && printf '#!/bin/sh\nexec python3 -c "from label_studio.server import main; main()" "$@"\n' >/usr/local/bin/label-studio \
    && chmod +x /usr/local/bin/label-studio \
    && mkdir -p /label-studio/data && chown -R 1001 /label-studio
ENV PYTHONPATH=/opt/label-studio LABEL_STUDIO_BASE_DATA_DIR=/label-studio/data HOME=/label-studio
USER 1001
VOLUME /label-studio/data
CMD ["label-studio"]
DOCKERFILE
    docker build -q -f "$folder/label-studio.dockerfile" -t "$label_studio" \
        "$(echo "$here"/.label-studio/lib/python3.*/site-packages)" >/dev/null
}
