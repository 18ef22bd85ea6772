"""Writes what the image is made from: /boot/image.packages, /boot/image.manifest, /boot/licences.

image.packages: every package that was there to build with, one a line: name, version and the
SHA-256 of its archive file. image.manifest: of those that files of the image come from, the
licences, too. licences: their texts. Runs in the finished chroot.
"""

import re
import shutil
import subprocess
from pathlib import Path

DOC = Path("/usr/share/doc")
BOOT = Path("/boot")
# On the ISO beside the live system.
BOOT_LOADERS = {"grub-efi-amd64-signed", "isolinux", "shim-signed", "syslinux-common"}
UNPACKED = "grub-legacy"  # by another hook, and not installed


def main() -> None:
    """Write the files."""
    packages = read_packages()
    lines = [f"{name} {version} {sha256}\n" for name, (version, sha256) in packages.items()]
    (BOOT / "image.packages").write_text("".join(lines))
    used = sorted(find_owners() | BOOT_LOADERS | {name_of_kernel(), UNPACKED})
    rows = [" ".join([name, *packages[name], *find_licences(name)]) for name in used]
    (BOOT / "image.manifest").write_text("\n".join(rows) + "\n")
    for name in used:
        (BOOT / "licences" / name).mkdir(parents=True)
        shutil.copyfile(DOC / name / "copyright", BOOT / "licences" / name / "copyright")
    shutil.copytree("/usr/share/common-licenses", BOOT / "licences" / "common-licenses")


def run(*argv: str) -> str:
    """Run a program; give what it prints."""
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def read_packages() -> dict[str, tuple[str, str]]:
    """Give version and SHA-256 of every package, by its name."""
    installed = run("dpkg-query", "--show", "--showformat", "${Package}=${Version}\n").split()
    (other,) = re.findall(r"\| +(\S+) \| +\S+ bookworm/", run("apt-cache", "madison", UNPACKED))
    records = run("apt-cache", "show", "--", *installed, f"{UNPACKED}={other}").split("\n\n")
    packages = {}
    for record in records:
        fields = dict(re.findall(r"^(Package|Version|SHA256): (.*)$", record, re.MULTILINE))
        if "SHA256" in fields:
            packages[fields["Package"]] = (fields["Version"], fields["SHA256"])
    missing = {each.partition("=")[0] for each in installed} - set(packages)
    if missing:
        raise SystemExit(f"the archive does not know the packages {', '.join(sorted(missing))}")
    return dict(sorted(packages.items()))


def find_owners() -> set[str]:
    """Find the packages that the live system's files come from."""
    files = (BOOT / "live-system.files").read_text().splitlines()
    names: set[str] = set()
    owners = read_owners()
    for path in (file.removeprefix(".").removesuffix("c") for file in files):
        # Programs are listed where they were before /usr had them all; byte code by its source.
        candidates = (path, path.removeprefix("/usr"), f"{path}c", f"{path}.xz", f"{path}o.xz")
        names.update(owners[each] for each in candidates if each in owners)
    return names


def read_owners() -> dict[str, str]:
    """Give the package of each file."""
    owners: dict[str, str] = {}
    for path in Path("/var/lib/dpkg/info").glob("*.list"):
        name = path.stem.partition(":")[0]
        owners.update((line, name) for line in path.read_text().splitlines())
    return owners


def name_of_kernel() -> str:
    """Name the kernel's package."""
    return f"linux-image-{next(Path('/usr/lib/modules').iterdir()).name}"


def find_licences(name: str) -> list[str]:
    """Give the licences that a package's copyright file names, in its own short words."""
    text = (DOC / name / "copyright").read_text(encoding="utf-8", errors="replace")
    if text.startswith("Format:"):
        words = re.findall(r"^License: *(\S.*)$", text, re.MULTILINE)
    else:
        words = re.findall(r"/usr/share/common-licenses/([\w.-]*\w)", text)
    return sorted({word.strip().replace(" ", "_") for word in words}) or ["see-its-text"]


main()
