"""A machine with an appliance's disk, and the command `bootgraft` run on it as a user would."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vm.demo import ISO, VM_TOML

COMMAND = Path(sys.executable).with_name("bootgraft")
COMMAND_TIMEOUT = 280.0  # seconds


@dataclass(frozen=True, slots=True)
class Said:
    """What a command has said and how it ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def text(self) -> str:
        """Return all of it."""
        return self.stdout + self.stderr


class Bench:
    """A vm.toml and its one disk in one folder; `runtime` has a short path."""

    def __init__(
        self,
        folder: Path,
        runtime: Path,
        live_iso: Path,
        *,
        vm_toml: str = VM_TOML,
        disk: str = "appliance.vhd",
    ) -> None:
        self.folder = folder
        self.live_iso = live_iso
        self.vm = folder / "vm.toml"
        self.disk = folder / disk
        self.state = folder / "state"
        self._runtime = runtime
        self._temporary = runtime / "tmp"
        self._temporary.mkdir()
        self.vm.write_text(vm_toml)

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment of the commands: nothing of theirs lies elsewhere."""
        return {
            **os.environ,
            "XDG_RUNTIME_DIR": str(self._runtime),
            "XDG_STATE_HOME": str(self.state),
            "TMPDIR": str(self._temporary),
            "BOOTGRAFT_ISO": str(self.live_iso),
        }

    def bootgraft(self, *arguments: str | Path, timeout: float = COMMAND_TIMEOUT) -> Said:
        """Run the command to its end; `timeout` in seconds."""
        result = subprocess.run(
            [COMMAND, *arguments],
            env=self.environment,
            cwd=self._temporary,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Said(result.returncode, result.stdout, result.stderr)

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start the command; its output is read from the pipes."""
        return subprocess.Popen(
            [COMMAND, *arguments],
            env=self.environment,
            cwd=self._temporary,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def hash_disk(self) -> str:
        """Return the hash of the disk's image, the whole file."""
        with self.disk.open("rb") as image:
            return hashlib.file_digest(image, "sha256").hexdigest()

    def run_directories(self) -> list[Path]:
        """Return the directories of all runs, the oldest first."""
        runs = self.state / "bootgraft" / "runs"
        return sorted(runs.iterdir(), key=lambda path: path.stat().st_mtime_ns)

    def last_run(self) -> Path:
        """Return the directory of the latest run."""
        return self.run_directories()[-1]

    def read_result(self) -> Mapping[str, Any]:
        """Return the result of the latest run."""
        document: Mapping[str, Any] = json.loads((self.last_run() / "result.json").read_bytes())
        return document

    def close(self) -> None:
        """Have a machine turned off that a command, cut off by its timeout, has left on."""
        if self.leftovers():
            self.bootgraft("recover")

    def leftovers(self) -> list[str]:
        """Return what a command that has ended should not have left: processes and files."""
        folder = bytes(self._runtime)
        commands = (_read_command(path) for path in Path("/proc").glob("[0-9]*/cmdline"))
        processes = [command.decode(errors="replace") for command in commands if folder in command]
        files = [*self._temporary.iterdir(), *(self._runtime / "bootgraft").glob("*")]
        records = (self.state / "bootgraft").glob("machines/*/unfinished.json")
        return processes + [str(path) for path in (*files, *records)]


def _read_command(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended meanwhile
        return b""


def find_live_iso() -> Path:
    """Return the live ISO that the tests boot. Raises RuntimeError where it was not built."""
    iso = Path(os.environ.get("BOOTGRAFT_ISO") or ISO)
    if not iso.is_file():
        raise RuntimeError(f"the live ISO {iso} is not there: build it with `make iso`")
    return iso
