"""The ISO's bytes: the same from the same inputs, whoever builds them, where and when."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
WORK = REPOSITORY / "build/image-work"
BUILD_TIMEOUT = 1800.0  # seconds; 150 on an idle machine

pytestmark = [pytest.mark.reproducible, pytest.mark.timeout(4 * BUILD_TIMEOUT)]


def copy_inputs(source: Path, folder: Path, *, modes: int) -> Path:
    """Make a repository with what the image is made from, as a checkout with other modes would."""
    for name in ("image-build", "agent"):
        shutil.copytree(source / name, folder / name)
        for path in (folder / name).rglob("*"):
            path.chmod(path.stat().st_mode & ~0o777 | (path.stat().st_mode & modes))
    if (WORK / "cache").is_dir():  # packages that need not be fetched once more
        (folder / "build/image-work").mkdir(parents=True)
        run(["cp", "-a", WORK / "cache", folder / "build/image-work"])
    return folder


def run(argv: list[str | Path], **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a program in an environment that is changed so."""
    return subprocess.run(
        argv,
        env={**os.environ, **changes},
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT,
        check=False,
    )


def build(repository: Path, *options: str | Path, umask: str, **changes: str) -> Path:
    """Build the ISO there."""
    script = repository / "image-build/build.sh"
    shell = ["sh", "-c", f'umask {umask}; exec "$0" "$@"', script, *options]
    result = run(shell, **changes)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return repository / "build/bootgraft.iso"


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture(scope="module")
def first_iso(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    return build(copy_inputs(REPOSITORY, folder, modes=0o755), umask="022")


def test_two_builds_give_the_same_iso(first_iso: Path, tmp_path: Path) -> None:
    # Of the first one's inputs: somebody may be at work in this repository meanwhile.
    other = copy_inputs(first_iso.parents[1], tmp_path / "a-longer-name", modes=0o775)
    locked = ("--locked", Path(f"{first_iso}.packages"))
    changes = {"TZ": "Asia/Tokyo", "LANG": "de_DE.UTF-8", "HOME": str(tmp_path), "USER": "somebody"}
    second_iso = build(other, *locked, umask="077", **changes)
    for suffix in ("", ".packages", ".manifest", ".inputs"):
        hashes = {hash_file(Path(f"{iso}{suffix}")) for iso in (first_iso, second_iso)}
        assert len(hashes) == 1, f"bootgraft.iso{suffix} differs"


def test_a_package_that_is_not_to_be_had_is_named(first_iso: Path, tmp_path: Path) -> None:
    lines = Path(f"{first_iso}.packages").read_text(encoding="ascii").splitlines(keepends=True)
    busybox = next(line for line in lines if line.startswith("busybox "))
    changed = busybox.replace(busybox.split()[1], "0:1.0-1")
    locked = tmp_path / "packages"
    locked.write_text("".join(changed if line == busybox else line for line in lines))
    repository = first_iso.parents[1]
    result = run([repository / "image-build/build.sh", "--locked", locked])
    assert result.returncode == 1
    assert "build.sh: the archive does not have these packages any more" in result.stderr
    assert result.stderr.endswith(f"and build again:\n{changed}")
    assert hash_file(first_iso) == hash_file(repository / "build/bootgraft.iso")
