"""One QEMU process that outlives us: its folder, its process, its monitor.

QEMU is the hypervisor here. It goes on when the controller is killed, and a later controller finds
it by its command line, which names the machine's process file. The number in that file is looked
at first; without it, all processes are: the folder may have been another one then, or is gone.
"""

import asyncio
import contextlib
import logging
import os
import select
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from qemu.qmp import QMPClient, QMPError

from bootgraft_host.machine import MachineError
from bootgraft_host.vmconfig import SOCKET_PATH_LIMIT

START_TIMEOUT = 30.0  # seconds until the monitor answers; well below one on an idle machine
COMMAND_TIMEOUT = 10.0  # seconds
QUIT_TIMEOUT = 5.0  # seconds between a polite request and SIGKILL
KILL_TIMEOUT = 30.0  # seconds; a process in an uninterruptible read dies late
POLL_INTERVAL = 0.02  # seconds, while QEMU opens its monitor
MACHINE_ID_LIMIT = 40  # bytes
ROOT_PATH_LIMIT = SOCKET_PATH_LIMIT - MACHINE_ID_LIMIT - len("//com1.sock")

_LOGGER = logging.getLogger(__name__)
_CLIENT_NAME = "bootgraft"
# The client library logs as errors what it also raises.
logging.getLogger(f"qemu.qmp.protocol.{_CLIENT_NAME}").setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Command:
    """A command of QEMU's monitor (QMP) and its arguments."""

    name: str
    arguments: dict[str, object] | None = None


def runtime_root() -> Path:
    """Return where our runtime folders lie: a folder of this user alone, created if need be.

    It is the user's runtime folder, or one in /tmp where that is missing or its path is too long.
    """
    user = os.getuid()
    session = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{user}")
    root = session / "bootgraft"
    if not session.is_dir() or len(bytes(root)) > ROOT_PATH_LIMIT:
        root = Path(f"/tmp/bootgraft-{user}")  # noqa: S108
    _make_private(root)
    return root


def _make_private(folder: Path) -> None:
    """Create a folder that is ours alone; /tmp is open to others, who may have been first."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise MachineError(f"cannot make the runtime folder {folder}: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise MachineError(f"{folder} must be a folder of your own with mode 0700; remove it")


class QemuProcess:
    """The QEMU of one machine, running or not."""

    def __init__(self, machine_id: str) -> None:
        self.folder = runtime_root() / machine_id
        self.qmp_socket = self.folder / "qmp.sock"
        self.com1_socket = self.folder / "com1.sock"
        self.pid_file = self.folder / "pid"
        self.log = self.folder / "qemu.log"
        self._child: subprocess.Popen[bytes] | None = None  # if it was this object that started it

    def make_folder(self) -> None:
        """Create the runtime folder."""
        _make_private(self.folder)

    def remove_folder(self) -> None:
        """Remove the runtime folder, unless QEMU is running."""
        if not self.is_running():
            shutil.rmtree(self.folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # it is not empty while another machine is on
                self.folder.parent.rmdir()

    def is_running(self) -> bool:
        """Whether the machine's QEMU is there."""
        return self._find() is not None

    def start(self, command: Sequence[str]) -> None:
        """Start QEMU in a session of its own and wait until its monitor answers.

        Raises MachineError with QEMU's own words.
        """
        _LOGGER.debug("starting %s", command)
        with self.log.open("wb") as log:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        try:
            self._wait_started(self._child)
        except BaseException:
            self._child.kill()
            self._child.wait()
            raise

    def _wait_started(self, child: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while child.poll() is None:
            # The process file appears before the sockets do.
            if self.pid_file.exists() and self.qmp_socket.is_socket():
                with contextlib.suppress(MachineError):
                    self.execute(Command("query-status"))
                    return
            if time.monotonic() > deadline:
                raise MachineError(f"QEMU's monitor did not answer within {START_TIMEOUT:.0f} s")
            time.sleep(POLL_INTERVAL)
        raise MachineError(self._read_last_words() or f"QEMU ended with {child.returncode}")

    def _read_last_words(self) -> str:
        return self.log.read_text(errors="replace").strip()[-2000:]

    def execute(self, *commands: Command, timeout: float = COMMAND_TIMEOUT) -> list[Any]:
        """Run commands of QEMU's monitor, one after the other; returns their answers.

        The answers are as QEMU's QAPI schema has them.

        Each call has a connection of its own, so that nothing stays open between calls, and
        several processes can use the monitor in turn.
        """
        names = ", ".join(command.name for command in commands)
        try:
            return asyncio.run(self._execute(commands, timeout))
        except (QMPError, OSError, EOFError, TimeoutError) as error:
            what = str(error) or f"no answer within {timeout:.0f} s"
            raise MachineError(f"QEMU's monitor, asked for {names}: {what}") from error

    async def _execute(self, commands: Sequence[Command], timeout: float) -> list[Any]:
        client = QMPClient(_CLIENT_NAME)
        async with asyncio.timeout(timeout):
            await client.connect(str(self.qmp_socket))
            try:
                return [await client.execute(each.name, each.arguments) for each in commands]
            finally:
                await client.disconnect()

    def wait_ended(self, timeout: float) -> bool:
        """Wait until QEMU has ended; False where it is still there after `timeout` seconds."""
        process = self._find()
        if process is None:
            return True
        with process:
            return process.wait(timeout)

    def end(self) -> None:
        """End QEMU, by its monitor or by SIGKILL; one that has ended is left in peace."""
        process = self._find()
        if process is None:
            return
        with process:
            with contextlib.suppress(MachineError):  # it may end before it answers
                self.execute(Command("quit"), timeout=QUIT_TIMEOUT)
            if not process.wait(QUIT_TIMEOUT):
                _LOGGER.warning("QEMU (process %d) does not react and is killed", process.pid)
                process.kill()
                if not process.wait(KILL_TIMEOUT):
                    raise MachineError(
                        f"QEMU (process {process.pid}) does not end, not even killed"
                    )

    def _find(self) -> "_Process | None":
        """Find the running QEMU; its handle stays valid whatever becomes of the number."""
        if self._child is not None:
            self._child.poll()  # a child that has ended keeps its number until it is asked for
        for pid in self._candidates():
            if not self._is_ours(pid):
                continue
            with contextlib.suppress(ProcessLookupError):
                process = _Process(pid)
                if self._is_ours(pid):  # still, now that the number is held
                    return process
                process.close()
        return None

    def _candidates(self) -> Iterator[int]:
        with contextlib.suppress(OSError, ValueError):
            yield int(self.pid_file.read_text())
        yield from (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())

    def _is_ours(self, pid: int) -> bool:
        """Tell by the last two parts of what follows -pidfile: the machine's id and "pid"."""
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        files = (Path(os.fsdecode(b)) for a, b in pairwise(words) if a == b"-pidfile")
        return any(path.parts[-2:] == self.pid_file.parts[-2:] for path in files)


class _Process:
    """A process held by its pidfd: the number may be given to another, the handle is not."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._handle = os.pidfd_open(pid)

    def wait(self, timeout: float) -> bool:
        poll = select.poll()
        poll.register(self._handle, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def kill(self) -> None:
        try:
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        except ProcessLookupError:
            return
        except PermissionError as error:
            raise MachineError(f"QEMU (process {self.pid}) belongs to another user") from error

    def close(self) -> None:
        os.close(self._handle)

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()
