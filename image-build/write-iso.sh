#!/bin/bash
# Writes the folder binary/ of a finished build as an ISO that boots from a DVD and from a disk, by
# BIOS and by UEFI. With the chroot's xorriso, so that every machine writes the same bytes.
#
# Usage: write-iso.sh WORK ISO
set -euo pipefail

work=$1
iso=$2
scratch=$work/chroot/iso

main() {
    trap 'rm -rf "$scratch"' EXIT
    rm -rf "$scratch"
    mkdir "$scratch"
    cp -a "$work/binary" "$scratch/tree"
    # shellcheck disable=SC2046  # one option a line
    chroot "$work/chroot" env SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" TZ=UTC LC_ALL=C \
        xorriso -as mkisofs -quiet $(options) -o /iso/image.iso /iso/tree
    mv "$scratch/image.iso" "$iso"
}

options() {
    cat <<END
-iso-level 3
-rational-rock
-volid BOOTGRAFT
-appid bootgraft
-publisher bootgraft
-eltorito-boot isolinux/isolinux.bin
-eltorito-catalog isolinux/boot.cat
-no-emul-boot
-boot-load-size 4
-boot-info-table
-isohybrid-mbr /usr/lib/ISOLINUX/isohdpfx.bin
-eltorito-alt-boot
-e boot/grub/efi.img
-no-emul-boot
-isohybrid-gpt-basdat
END
}

main
