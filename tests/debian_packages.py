"""Files of Debian packages that the tests use without installing the packages."""

import fcntl
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

BUILD = Path(__file__).resolve().parents[1] / "build"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def unpack(package: str, suite: str | None = None) -> Path:
    """Unpack a Debian package once and return the folder, laid out as the package's root.

    The package is this machine's own, or that of another suite of the same archive. The folder is
    build/<package>; complete or not there, also when several test runs ask at once.
    """
    folder = BUILD / package
    BUILD.mkdir(exist_ok=True)
    with (BUILD / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            _download_and_unpack(package, folder, suite)
    return folder


def find_archive() -> str:
    """Return the address of the Debian archive that this machine's first apt source names."""
    targets = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Identifier: Packages"]
    return _run(targets, Path.cwd()).split()[0]


def _download_and_unpack(package: str, folder: Path, suite: str | None) -> None:
    with tempfile.TemporaryDirectory(dir=BUILD, prefix=".unpack-") as scratch:
        # Not as the user _apt, who cannot write to the scratch folder.
        apt = ["apt-get", "-q", "-o", "APT::Sandbox::User=root"]
        if suite not in (None, platform.freedesktop_os_release().get("VERSION_CODENAME")):
            apt += _apt_options(str(suite), Path(scratch))
            _run([*apt, "update"], Path(scratch))
        _run([*apt, "download", package], Path(scratch))
        (archive,) = Path(scratch).glob("*.deb")
        tree = Path(scratch, "tree")
        _run(["dpkg-deb", "--extract", str(archive), str(tree)], Path(scratch))
        shutil.move(tree, folder)


def _apt_options(suite: str, scratch: Path) -> list[str]:
    """Let apt know another suite alone."""
    sources = scratch / "sources.list"
    sources.write_text(f"deb [signed-by={KEYRING}] {find_archive()} {suite} main\n")
    for name in ("lists/partial", "cache/archives/partial"):
        (scratch / name).mkdir(parents=True)
    settings = {
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": "-",
        "Dir::State::Lists": scratch / "lists",
        "Dir::Cache": scratch / "cache",
    }
    return [each for name, value in settings.items() for each in ("-o", f"{name}={value}")]


def _run(argv: list[str], folder: Path) -> str:
    result = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{argv} failed with status {result.returncode}: {result.stderr}")
    return result.stdout
