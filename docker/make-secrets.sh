#!/bin/sh
# Makes the secrets that compose.yaml mounts, those that are missing; run again, it changes nothing.
# usage: docker/make-secrets.sh [FOLDER]
#
# A token of your own Label Studio goes into label_studio_api_key; the one made here is given to the
# Label Studio of compose.yaml's profile. Only the folder keeps others out: Compose mounts each file as it
# is, so the containers' users must be able to read it.
set -eu
folder=${1:-$(dirname "$0")/secrets}
mkdir -p "$folder"
chmod 700 "$folder"
for name in redis_password basic_auth_pass label_studio_api_key label_studio_password ray_token; do
    [ -s "$folder/$name" ] && continue
    head -c 20 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$folder/$name"
    chmod 644 "$folder/$name"
    echo "made $folder/$name"
done
