"""Debian's kernel and Xen's hypervisor, which stand in for a guest's kernel-xen and for the shim.

Debian's kernel runs on Xen, too. As a bzImage GRUB legacy would simply boot it; a kernel-xen of
RHEL 5 or SLES 10 is a gzipped ELF file that GRUB refuses (Error 13), so this one is brought into
that form.
"""

import functools
import gzip
import lzma
import re
import struct
import subprocess
import tempfile
import zlib
from pathlib import Path

import debian_packages
from vm.commands import run

# Drivers of an IDE disk that holds ext3. ext4 serves ext3; the checksums are asked for by name.
INITRD_MODULES = ("crc32c_generic", "crct10dif_generic", "ata_piix", "sd_mod", "ext4")

# Linux/x86 boot protocol, "The real-mode kernel header" (Documentation/arch/x86/boot.rst).
SETUP_SECTORS_AT = 0x1F1
PAYLOAD_OFFSET_AT = 0x248  # then the payload's length; both 32 bits


def read_hypervisor() -> bytes:
    """Return Xen's hypervisor as Debian ships it: gzipped, with a multiboot header inside."""
    (path,) = _unpack("xen-system-amd64", r"xen-hypervisor-[\d.]+-amd64").glob("boot/xen-*.gz")
    return path.read_bytes()


def read_busybox() -> bytes:
    """Return a busybox that needs no library."""
    (path,) = debian_packages.unpack("busybox-static").glob("**/bin/busybox")
    return path.read_bytes()


def read_kernel_xen() -> bytes:
    """Return Debian's kernel as a gzipped ELF file; made once, then kept under build/."""
    (bz_image,) = _kernel_package().glob("boot/vmlinuz-*")
    kept = debian_packages.BUILD / f"kernel-xen-{bz_image.name}.gz"
    if not kept.exists():
        content = gzip.compress(extract_vmlinux(bz_image.read_bytes()), 6, mtime=0)
        with tempfile.NamedTemporaryFile(dir=kept.parent, delete=False) as scratch:
            scratch.write(content)
        Path(scratch.name).rename(kept)
    return kept.read_bytes()


def read_bz_image() -> bytes:
    """Return Debian's kernel as it is."""
    (bz_image,) = _kernel_package().glob("boot/vmlinuz-*")
    return bz_image.read_bytes()


def read_modules() -> dict[str, bytes]:
    """Return INITRD_MODULES and what they depend on, unpacked, in the order of loading."""
    (folder,) = _kernel_package().glob("**/lib/modules/*")
    paths = {_module_name(path): path for path in folder.glob("kernel/**/*.ko*")}
    loaded: dict[str, bytes] = {}
    for name in INITRD_MODULES:
        _add_module(name, paths, loaded)
    return loaded


def extract_vmlinux(bz_image: bytes) -> bytes:
    """Return the ELF file that a bzImage carries packed."""
    setup_size = (bz_image[SETUP_SECTORS_AT] + 1) * 512
    offset, length = struct.unpack_from("<II", bz_image, PAYLOAD_OFFSET_AT)
    payload = bz_image[setup_size + offset : setup_size + offset + length]
    vmlinux = _unpack_payload(payload)
    if not vmlinux.startswith(b"\x7fELF"):
        raise ValueError("the payload of the bzImage is no ELF file")
    return vmlinux


def _unpack_payload(payload: bytes) -> bytes:
    # The payload ends with the unpacked size, four bytes that are no part of the packed stream.
    if payload.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(payload)
    if payload.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(wbits=31).decompress(payload)
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        argv = ["zstd", "--decompress", "--stdout"]
        return subprocess.run(argv, input=payload[:-4], capture_output=True, check=True).stdout
    raise ValueError(f"a kernel packed in an unknown way: {payload[:4].hex()}")


def _module_name(path: Path) -> str:
    return path.name.split(".")[0].replace("-", "_")


def _add_module(name: str, paths: dict[str, Path], loaded: dict[str, bytes]) -> None:
    """Add a module behind its dependencies; one without a file is built into the kernel."""
    if name in loaded or name not in paths:
        return
    content = paths[name].read_bytes()
    if paths[name].suffix == ".xz":
        content = lzma.decompress(content)
    # .modinfo, where each module names what it needs.
    for depends in re.findall(rb"\0depends=([^\0]*)\0", content):
        for dependency in depends.decode().split(","):
            _add_module(dependency.replace("-", "_"), paths, loaded)
    loaded[name] = content


def _kernel_package() -> Path:
    return _unpack("linux-image-amd64", r"linux-image-\d[\w.+-]*-amd64")


@functools.cache
def _unpack(meta_package: str, pattern: str) -> Path:
    """Unpack the versioned package that a meta package depends on."""
    words = run(["apt-cache", "depends", meta_package]).stdout
    packages = re.findall(rf"Depends: ({pattern})$", words, re.MULTILINE)
    if not packages:
        raise RuntimeError(f"{meta_package} depends on no {pattern}: {words}")
    return debian_packages.unpack(packages[0])
