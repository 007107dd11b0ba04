#!/usr/bin/env bash
# Starts a private Docker engine of Debian's packages and, where no registry of images is at hand, makes
# stand-ins of the base images from Debian's packages and from the Label Studio in .label-studio.
# usage: engine.sh FOLDER [python] [redis] [label-studio]    as root; all three where none is named
# The engine listens on FOLDER/docker.sock, its id is in FOLDER/dockerd.pid; DOCKER_CONFIG is FOLDER/config, if it is made.
set -euo pipefail
folder=$1
shift
bases=${*:-python redis label-studio}
here=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$folder"
export DOCKER_HOST=unix://$folder/docker.sock DOCKER_BUILDKIT=1
[ ! -d "$folder/config" ] || export DOCKER_CONFIG=$folder/config
mirror=$(awk '/^URIs:/ { print $2; exit }' /etc/apt/sources.list.d/debian.sources)

# Debian 12 has neither Compose 2 nor buildx: those of Debian 13 are unpacked here, and nothing of it is installed.
{ docker compose version && docker buildx version; } >/dev/null 2>&1 || {
    export DOCKER_CONFIG=$folder/config
    apt=$folder/apt
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$DOCKER_CONFIG/cli-plugins"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >"$apt/sources.list"
    options=(-o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=- \
        -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update -qq
    (cd "$apt" && apt-get "${options[@]}" download -qq docker-compose docker-buildx)
    for package in "$apt"/*.deb; do dpkg -x "$package" "$apt/unpacked"; done
    cp "$apt"/unpacked/usr/libexec/docker/cli-plugins/* "$DOCKER_CONFIG/cli-plugins/"
}

if ! docker info >/dev/null 2>&1; then
    nohup dockerd --data-root "$folder/data" --exec-root "$folder/exec" --pidfile "$folder/dockerd.pid" \
        -H "$DOCKER_HOST" >"$folder/dockerd.log" 2>&1 &
    for _ in $(seq 60); do docker info >/dev/null 2>&1 && break; sleep 0.5; done
    docker info >/dev/null 2>&1 || { tail -5 "$folder/dockerd.log" >&2; exit 1; }
fi

missing() { [[ " $bases " == *" $1 "* ]] && ! docker image inspect "$2" >/dev/null 2>&1 && ! timeout 120 docker pull -q "$2" >/dev/null 2>&1; }
debian() { # packages, separated by commas
    mmdebstrap --quiet --variant=minbase --include="ca-certificates,$1" bookworm - "deb $mirror bookworm main"
}

if missing python python:3.11-slim-bookworm; then
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
fi

if missing redis redis:7.2-bookworm; then
    base=$folder/redis; rm -rf "$base"; mkdir -p "$base"
    debian redis-server,redis-tools | docker import - standin/redis >/dev/null
    cat >"$base/Dockerfile" <<'DOCKERFILE'
FROM standin/redis
RUN groupmod -g 999 redis && usermod -u 999 redis && mkdir -p /data && chown redis:redis /data
WORKDIR /data
VOLUME /data
DOCKERFILE
    docker build -q -t redis:7.2-bookworm "$base" >/dev/null
fi

label_studio=heartexlabs/label-studio:$(sed -n 's/^LABEL_STUDIO_VERSION := //p' "$here/Makefile")
if missing label-studio "$label_studio"; then
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
fi

# Where containers reach no packages, nothing could be built.
docker run --rm python:3.11-slim-bookworm pip download -q --no-deps -d /tmp "$(grep -m1 '^click==' "$here/requirements.txt")" ||
    { echo "containers reach no package registry here" >&2; exit 1; }
