"""image-build's scripts and lists, without building anything."""

import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGE_BUILD = REPOSITORY / "image-build"
WHEN_LOADED = {"early", "boot", "device", "use"}


def is_script(path: Path) -> bool:
    return path.is_file() and path.read_bytes().startswith(b"#!")


SCRIPTS = sorted(path for path in IMAGE_BUILD.rglob("*") if is_script(path))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    result = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
    assert result.stdout + result.stderr == ""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_executable(script: Path) -> None:
    assert os.access(script, os.X_OK)


def test_each_module_has_its_time_and_reason_and_is_listed_once() -> None:
    lines = (IMAGE_BUILD / "config/initramfs/modules").read_text(encoding="ascii").splitlines()
    assert [line for line in lines if line.strip("#") and not line.partition("#")[2]] == []
    entries = [line.partition("#")[0].split() for line in lines]
    pairs = [(when, name) for when, name in filter(None, entries)]
    assert {when for when, _ in pairs} == WHEN_LOADED
    assert [name for name, count in Counter(name for _, name in pairs).items() if count > 1] == []


@pytest.fixture
def copied_inputs(tmp_path: Path) -> Path:
    """A repository with nothing but what the image is made from."""
    for folder in ("image-build", "agent"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder)
    return tmp_path


def read_hash(repository: Path) -> str:
    script = repository / "image-build/build.sh"
    return subprocess.run([script, "--hash"], capture_output=True, text=True, check=True).stdout


def test_equal_inputs_have_equal_hashes(copied_inputs: Path) -> None:
    assert read_hash(copied_inputs) == read_hash(copied_inputs)


@pytest.mark.parametrize(
    "changed", ["agent/bootgraft_agent/wire.py", "image-build/config/initramfs/modules"]
)
def test_a_changed_input_changes_the_hash(copied_inputs: Path, changed: str) -> None:
    before = read_hash(copied_inputs)
    with (copied_inputs / changed).open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert read_hash(copied_inputs) != before


def test_byte_code_of_the_agent_leaves_the_hash_as_it_is(copied_inputs: Path) -> None:
    before = read_hash(copied_inputs)
    cache = copied_inputs / "agent/bootgraft_agent/__pycache__"
    cache.mkdir(exist_ok=True)
    (cache / "wire.cpython-311.pyc").write_bytes(b"anything")
    assert read_hash(copied_inputs) == before


def test_an_unknown_argument_is_refused() -> None:
    argv = [str(IMAGE_BUILD / "build.sh"), "--outptu", "file.iso"]
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "build.sh: unknown argument --outptu; see --help\n"
