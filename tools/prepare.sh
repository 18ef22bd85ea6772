#!/bin/bash
# Brings what the project needs to this machine: the Debian packages of debian-packages.txt that are
# missing (by sudo, unless root), and the virtual environment .venv.
set -euo pipefail
cd "$(dirname "$0")/.."

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

missing_packages() {
    sed 's/#.*//' debian-packages.txt | xargs -n 1 | while read -r package; do
        dpkg-query --show --showformat='${db:Status-Status}\n' "$package" 2>/dev/null \
            | grep -qx installed || echo "$package"
    done
}

mapfile -t missing < <(missing_packages)
if [ "${#missing[@]}" -gt 0 ]; then
    echo "installing ${missing[*]}" >&2
    as_root apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends "${missing[@]}"
fi

stamp=.venv/bootgraft-requirements
wanted=$(sha256sum pyproject.toml | cut -d ' ' -f 1)
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "making the virtual environment .venv" >&2
    python3 -m venv .venv
    .venv/bin/python -m pip install --quiet --editable '.[dev]'
    echo "$wanted" > "$stamp"
fi
