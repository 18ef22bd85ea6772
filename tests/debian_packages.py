"""Files of Debian packages that the tests use without installing the packages."""

import fcntl
import shutil
import subprocess
import tempfile
from pathlib import Path

BUILD = Path(__file__).resolve().parents[1] / "build"


def unpack(package: str) -> Path:
    """Unpack a Debian package once and return the folder, laid out as the package's root.

    The folder is build/<package>; complete or not there, also when several test runs ask at once.
    """
    folder = BUILD / package
    BUILD.mkdir(exist_ok=True)
    with (BUILD / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            _download_and_unpack(package, folder)
    return folder


def _download_and_unpack(package: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=BUILD, prefix=".unpack-") as scratch:
        # Not as the user _apt, who cannot write to the scratch folder.
        _run(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package], Path(scratch))
        (archive,) = Path(scratch).glob("*.deb")
        tree = Path(scratch, "tree")
        _run(["dpkg-deb", "--extract", str(archive), str(tree)], Path(scratch))
        shutil.move(tree, folder)


def _run(argv: list[str], folder: Path) -> None:
    result = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{argv} failed with status {result.returncode}: {result.stderr}")
