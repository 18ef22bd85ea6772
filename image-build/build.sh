#!/bin/bash
# Builds the live ISO with live-build, in build/image-work, on Debian 12 or 13. Needs root, and gets
# it with sudo.
set -euo pipefail

PATH=$PATH:/usr/sbin:/sbin
repository=$(realpath "$(dirname "$0")/..")
work=$repository/build/image-work
keyrings=/usr/share/keyrings
image_inputs=(image-build)
agent_inputs=(agent/bootgraft_agent)

# What an image does not depend on must not change it: its times are this one, unless told otherwise.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-1767225600} # 2026-01-01
export LC_ALL=C.UTF-8

usage() {
    cat <<END
Usage: image-build/build.sh [--output FILE]
       image-build/build.sh --hash

Builds the live ISO, as build/bootgraft.iso unless told otherwise.

  --output FILE  the ISO to write; FILE.inputs gets the hash of what it was made from
  --hash         print the SHA-256 of everything that the ISO is made from, and build nothing
  -h, --help     this text

Debian's archive is the one that this machine's apt sources name. After a change to the agent alone
only the last stage is built again; remove build/image-work for Debian's newest packages.
END
}

main() {
    local output=$repository/build/bootgraft.iso
    while (($#)); do
        case $1 in
            --output)
                (($# > 1)) || fail "--output needs a file name"
                output=$(realpath -m "$2")
                shift
                ;;
            --hash)
                hash_inputs "${image_inputs[@]}" "${agent_inputs[@]}"
                return
                ;;
            -h | --help)
                usage
                return
                ;;
            *) fail "unknown argument $1; see --help" ;;
        esac
        shift
    done

    become_root --output "$output"
    mkdir -p "$work"
    exec {lock}>"$work.lock"
    flock "$lock"
    local inputs
    inputs=$(hash_inputs "${image_inputs[@]}" "${agent_inputs[@]}")
    build "$inputs"
    deliver "$output" "$inputs"
}

fail() {
    echo "build.sh: $*" >&2
    exit 1
}

become_root() {
    if ((EUID != 0)); then
        command -v sudo >/dev/null || fail "live-build needs root, and there is no sudo here"
        exec sudo "SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH" "$repository/image-build/build.sh" "$@"
    fi
}

# One SHA-256 over the names and contents of all files in folders of the repository.
hash_inputs() {
    (
        cd "$repository"
        echo "SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH"
        find "$@" -type f -not -path '*/__pycache__/*' -print0 |
            LC_ALL=C sort --zero-terminated | xargs --null sha256sum
    ) | sha256sum | cut -d ' ' -f 1
}

# The chroot and the live system in it depend on image-build alone, the ISO on the agent, too.
build() {
    local inputs=$1
    local chroot_inputs
    chroot_inputs=$(hash_inputs "${image_inputs[@]}")
    cd "$work"
    if [[ -e chroot-inputs && $(<chroot-inputs) == "$chroot_inputs" ]]; then
        lb clean --binary
        copy_agent "$inputs"
        lb build binary
    else
        rm -f chroot-inputs
        if [[ -d config ]]; then
            lb clean
        fi
        configure
        copy_agent "$inputs"
        lb build
        echo "$chroot_inputs" >chroot-inputs
    fi
}

copy_agent() {
    rm -rf config/agent
    mkdir config/agent
    cp -r "$repository/agent/bootgraft_agent" config/agent
    find config/agent -name __pycache__ -prune -exec rm -r '{}' +
    echo "${1:0:16}" >config/image-id
}

configure() {
    local main security updates
    compgen -G "$keyrings/debian-archive-trixie-*" >/dev/null ||
        fail "$keyrings has no key of Debian 13 (trixie): install a newer debian-archive-keyring"
    main=$(find_archive trixie)
    [[ $main ]] ||
        fail "none of this machine's apt sources has Debian 13 (trixie); tried: $(list_archives)"
    security=$(find_archive trixie-security)
    [[ $security ]] ||
        echo "build.sh: no apt source here has trixie-security; building without it" >&2
    updates=$(find_archive trixie-updates)

    rm -rf .build auto config
    cp -r "$repository"/image-build/{auto,config} .
    copy_apt_options >>config/apt/apt.conf
    lb config \
        --mirror-bootstrap "$main" \
        --mirror-binary "$main" \
        --mirror-binary-security "${security:-$main}" \
        --mirror-chroot-security "${security:-$main}" \
        --security "$(is_there "$security")" \
        --updates "$(is_there "$updates")"
}

is_there() {
    if [[ $1 ]]; then echo true; else echo false; fi
}

# The address of the first apt source that has the suite, as signed by Debian; nothing when none has.
find_archive() {
    local suite=$1 address release
    release=$(mktemp)
    while read -r address; do
        if /usr/lib/apt/apt-helper download-file "$address/dists/$suite/InRelease" "$release" \
            >/dev/null 2>&1 && grep -q '^Origin: Debian$' "$release"; then
            echo "$address"
            break
        fi
    done < <(list_archives)
    rm -f "$release"
}

# The addresses of all apt sources of this machine, in the order and as apt itself reads them.
list_archives() {
    apt-get update --print-uris |
        sed -n "s|^'\(.*\)/dists/[^']*/\(In\)\?Release' .*|\1|p" | awk '!seen[$0]++'
}

# A machine whose archive stands still (a snapshot) has told its apt to accept that.
copy_apt_options() {
    local option
    for option in Acquire::Check-Valid-Until Acquire::Check-Date; do
        apt-config dump | grep "^$option " || true
    done
}

# The ISO appears whole or not at all, and belongs to whoever asked for it.
deliver() {
    local output=$1
    local inputs=$2
    rm -f "$output.inputs"
    mv live-image-amd64.iso "$output.new"
    mv "$output.new" "$output"
    echo "$inputs" >"$output.inputs"
    if [[ ${SUDO_UID:-} && ${SUDO_GID:-} ]]; then
        chown "$SUDO_UID:$SUDO_GID" "$output" "$output.inputs"
    fi
    echo "$output: $(stat --format %s "$output") bytes, inputs $inputs"
}

main "$@"
