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

# What an image does not depend on must not change it: its times are this one, unless told otherwise,
# and files have the same modes whoever builds.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-1767225600} # 2026-01-01
export LC_ALL=C.UTF-8 TZ=UTC
umask 022

usage() {
    cat <<END
Usage: image-build/build.sh [--output FILE] [--locked LIST]
       image-build/build.sh --hash

Builds the live ISO, as build/bootgraft.iso unless told otherwise.

  --output FILE  the ISO to write; beside it, FILE.inputs gets the hash of what it was made from,
                 FILE.packages the Debian packages, FILE.manifest their licences
  --locked LIST  build from exactly the packages of LIST, a FILE.packages of an earlier build; says
                 which of them the archive does not have any more
  --hash         print the SHA-256 of everything that the ISO is made from, and build nothing
  -h, --help     this text

Debian's archive is the one that this machine's apt sources name. After a change to the agent alone
only the last stage is built again; remove build/image-work for Debian's newest packages.
END
}

main() {
    local output=$repository/build/bootgraft.iso
    local locked=
    local arguments=("$@")
    while (($#)); do
        case $1 in
            --output)
                (($# > 1)) || fail "--output needs a file name"
                output=$(realpath -m "$2")
                shift
                ;;
            --locked)
                (($# > 1)) || fail "--locked needs a file name"
                locked=$(realpath -m "$2")
                [[ -r $locked ]] || fail "cannot read the list $locked"
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

    become_root "${arguments[@]}"
    mkdir -p "$work"
    exec {lock}>"$work.lock"
    flock "$lock"
    local inputs
    inputs=$(hash_inputs "${image_inputs[@]}" "${agent_inputs[@]}")
    build "$inputs" "$locked"
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
    local locked=$2
    local chroot_inputs
    chroot_inputs=$(hash_inputs "${image_inputs[@]}")
    cd "$work"
    if [[ -e chroot-inputs && $(<chroot-inputs) == "$chroot_inputs" ]] && has_packages "$locked"; then
        lb clean --binary
        copy_agent "$inputs"
        lb build binary
    else
        rm -f chroot-inputs
        if [[ -d config ]]; then
            lb clean
        fi
        configure "$locked"
        copy_agent "$inputs"
        lb build
        has_packages "$locked" ||
            fail "built with other packages than those of $locked:
$(diff "$locked" chroot/boot/image.packages)"
        echo "$chroot_inputs" >chroot-inputs
    fi
    "$repository/image-build/write-iso.sh" "$work" "$work/bootgraft.iso"
}

# Whether the chroot has the packages of a list; every chroot has those of no list.
has_packages() {
    [[ ! $1 ]] || cmp --quiet "$1" chroot/boot/image.packages
}

copy_agent() {
    rm -rf config/agent
    mkdir config/agent
    cp -r "$repository/agent/bootgraft_agent" config/agent
    find config/agent -name __pycache__ -prune -exec rm -r '{}' +
    echo "${1:0:16}" >config/image-id
}

configure() {
    local locked=$1
    local main security updates suite
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
    mkdir config/archives
    # For GRUB legacy's boot code alone: a hook asks for it, and nothing else comes from there.
    echo "deb $main bookworm main" >config/archives/bookworm.list.chroot
    printf '%s\n' "Package: *" "Pin: release n=bookworm" "Pin-Priority: 1" \
        >config/archives/bookworm.pref.chroot
    if [[ $locked ]]; then
        check_packages "$locked" "$main trixie" "$main bookworm" \
            ${security:+"$security trixie-security"} ${updates:+"$updates trixie-updates"}
        pin_packages "$locked" >config/archives/locked.pref.chroot
    fi
    lb config \
        --mirror-bootstrap "$main" \
        --mirror-binary "$main" \
        --mirror-binary-security "${security:-$main}" \
        --mirror-chroot-security "${security:-$main}" \
        --security "$(is_there "$security")" \
        --updates "$(is_there "$updates")"
}

# Whether the archives, each an address and a suite, still have the packages of a list.
check_packages() {
    local locked=$1
    local folder missing
    shift
    folder=$(mktemp --directory)
    chmod 755 "$folder" # apt reads it as a user of its own
    mkdir -p "$folder"/{lists,cache/archives}/partial
    printf "deb [signed-by=$keyrings/debian-archive-keyring.gpg] %s main\n" "$@" \
        >"$folder/sources.list"
    touch "$folder/status"
    cat >"$folder/apt.conf" <<END
Dir::Etc::SourceList "$folder/sources.list";
Dir::Etc::SourceParts "-";
Dir::Etc::Preferences "-";
Dir::Etc::PreferencesParts "-";
Dir::State::Lists "$folder/lists";
Dir::State::Status "$folder/status";
Dir::Cache "$folder/cache";
Acquire::Languages "none";
END
    APT_CONFIG=$folder/apt.conf apt-get -qq update
    missing=$(find_missing "$locked" "$folder/apt.conf")
    rm -rf "$folder"
    [[ ! $missing ]] ||
        fail "the archive does not have these packages any more; a snapshot of it from the time of
the list does: name one in this machine's apt sources, and build again:
$missing"
}

# The lines of a list for which the archive has nothing with that name, version and SHA-256.
find_missing() {
    local locked=$1
    export APT_CONFIG=$2
    comm -23 <(LC_ALL=C sort "$locked") <(
        # Names of packages that are not there any more are complained of; the list says it better.
        awk '{ print $1 }' "$locked" | xargs apt-cache show 2>/dev/null | awk '
            $1 == "Package:" { name = $2 }
            $1 == "Version:" { version = $2 }
            $1 == "SHA256:" { print name, version, $2 }' | LC_ALL=C sort --unique
    )
}

# Has apt take these versions, whatever else there is, even where a newer one is installed.
pin_packages() {
    awk '{ printf "Package: %s\nPin: version %s\nPin-Priority: 1001\n\n", $1, $2 }' "$1"
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

# The ISO appears whole or not at all, and all belongs to whoever asked for it.
deliver() {
    local output=$1
    local inputs=$2
    rm -f "$output.inputs"
    cp binary/packages.txt "$output.packages"
    cp binary/manifest.txt "$output.manifest"
    mv bootgraft.iso "$output.new"
    mv "$output.new" "$output"
    echo "$inputs" >"$output.inputs"
    if [[ ${SUDO_UID:-} && ${SUDO_GID:-} ]]; then
        chown "$SUDO_UID:$SUDO_GID" "$output" "$output".{inputs,packages,manifest}
    fi
    echo "$output: $(stat --format %s "$output") bytes, inputs $inputs"
}

main "$@"
