"""A served host, and the command `bootgraft` run on its machines as a user would."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from hyperv.serve_host import HOST
from vm.bench import COMMAND, COMMAND_TIMEOUT, Said

TESTS = Path(__file__).resolve().parents[1]
END_TIMEOUT = 60.0  # seconds; machines that QEMU runs are turned off meanwhile


class HostProcess:
    """A modelled host in a process of its own; leaving the context ends it."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hyperv.serve_host", folder],
            env={**environment, "PYTHONPATH": str(TESTS)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()  # it can be reached

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        problems = self.ask("look")["problems"] if error is None else []
        self.close()
        assert problems == []

    def close(self) -> None:
        """End the host; its machines are turned off."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(END_TIMEOUT)
        finally:
            self._process.kill()
            self._process.wait()

    def ask(self, do: str, **arguments: object) -> Any:
        """Ask the host; see serve_host.Control."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        answer = json.loads(self._process.stdout.readline() or '{"error": "the host has ended"}')
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["answer"]

    def drive(self, letter: str = "C") -> Path:
        """The folder that is a drive of the host."""
        return self.folder / "drives" / letter


class HyperVBench:
    """A user's computer: a state directory, a runtime folder, and the command line."""

    def __init__(self, folder: Path, runtime: Path) -> None:
        self.state = folder / "state"
        self.host_folder = folder / "host"  # for the host to serve
        self.command: Sequence[str | Path] = [COMMAND]
        self._runtime = runtime

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the commands: nothing of theirs lies elsewhere."""
        return {
            **os.environ,
            "XDG_RUNTIME_DIR": str(self._runtime),
            "XDG_STATE_HOME": str(self.state),
            "TMPDIR": str(self._runtime),
            "BOOTGRAFT_HOSTS": str(self.host_folder / "hosts.toml"),
        }

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start the command; its output is read from the pipes."""
        return subprocess.Popen(
            [*self.command, *arguments],
            env=self.environment,
            cwd=self._runtime,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def bootgraft(self, *arguments: str | Path) -> Said:
        """Run the command to its end."""
        with self.start(*arguments) as process:
            try:
                out, err = process.communicate(timeout=COMMAND_TIMEOUT)
            finally:
                process.kill()
        return Said(process.returncode, out, err)

    def run_directories(self) -> list[Path]:
        """The directories of all runs, the oldest first."""
        runs = self.state / "bootgraft" / "runs"
        return sorted(runs.iterdir(), key=lambda path: path.stat().st_mtime_ns)

    def read_result(self) -> Mapping[str, Any]:
        """The result of the latest run."""
        path = self.run_directories()[-1] / "result.json"
        document: Mapping[str, Any] = json.loads(path.read_bytes())
        return document

    def unfinished(self) -> list[Path]:
        """The records of machines that are not restored."""
        return list((self.state / "bootgraft").glob("machines/*/unfinished.json"))


def target(name: str) -> str:
    """How a machine of the served host is named on the command line."""
    return f"hyperv://{HOST}/{quote(name)}"
