"""A runner with faults, and what tests of uploads share."""

import hashlib
import random
from collections.abc import Callable, Mapping
from pathlib import Path

from bootgraft_agent.wire import JSON
from bootgraft_host.hyperv.host_files import BLOCK_SIZE
from bootgraft_host.hyperv.runner import (
    DEFAULT_TIMEOUT,
    UnreachableError,
)
from bootgraft_host.hyperv.upload import (
    UploadedIso,
    upload_isos,
)
from bootgraft_host.replies import Progress
from hyperv.direct import DirectRunner
from hyperv.model import SimulatedHost

VM_ID = "d9e0eb0a-5b37-508e-9173-67e9ade83acf"
BASE = "C:\\ProgramData\\bootgraft"
FOLDER = f"{BASE}\\{VM_ID}"
SIZE = 2 * BLOCK_SIZE + 12345

Hook = Callable[[str, Mapping[str, JSON]], None]


class FaultyRunner(DirectRunner):
    """Calls `before` and `after` around each script; either may raise, or do something else."""

    before: Hook = staticmethod(lambda script, asked: None)
    after: Hook = staticmethod(lambda script, asked: None)

    def run(
        self,
        script: str,
        asked: Mapping[str, JSON] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> list[Mapping[str, JSON]]:
        self.before(script, asked or {})
        answer = super().run(script, asked, timeout=timeout)
        if script == "write-block":  # nobody needs the blocks; one that goes wrong sends many
            self.calls[-1] = script, {**(asked or {}), "Data": ""}
        self.after(script, asked or {})
        return answer

    def count(self, script: str) -> int:
        return sum(name == script for name, _ in self.calls)


def make_iso(path: Path, size: int, seed: int = 1) -> Path:
    path.write_bytes(random.Random(seed).randbytes(size))  # noqa: S311 - any bytes will do
    return path


def ignore(progress: Progress) -> None:
    """Nobody looks."""


def do_upload(runner: DirectRunner, *isos: Path, base: str | None = None) -> list[UploadedIso]:
    return list(upload_isos(runner, base, VM_ID, isos, ignore))


def name_of(iso: Path) -> str:
    return f"bootgraft-{hashlib.sha256(iso.read_bytes()).hexdigest()[:16]}.iso"


def content(host: SimulatedHost, path: str) -> bytes:
    found = host.files.find_file(path)
    assert found is not None, path
    return found.read_bytes()


def is_copy(host: SimulatedHost, path: str, iso: Path) -> bool:
    """Compare apart from an assertion, which would compare millions of bytes one by one."""
    return content(host, path) == iso.read_bytes()


def names_in(host: SimulatedHost, folder: str) -> list[str]:
    found = host.files.find(folder)
    assert found is not None, folder
    return sorted(each.name for each in found.iterdir())


def cut_after(blocks: int) -> Hook:
    """The host is away once so many blocks were written."""
    left = iter(range(blocks))

    def cut(script: str, asked: Mapping[str, JSON]) -> None:
        if script == "write-block" and next(left, None) is None:
            raise UnreachableError("the network is gone")

    return cut


def fail_once(script: str) -> Hook:
    armed = [script]

    def fail(name: str, asked: Mapping[str, JSON]) -> None:
        if name in armed:
            armed.remove(name)
            raise UnreachableError("the connection was cut")

    return fail
