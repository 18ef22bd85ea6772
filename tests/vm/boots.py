"""Boots a disk in QEMU and watches COM1 and the VGA text screen."""

import asyncio
import contextlib
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from qemu.qmp import ConnectError, QMPClient

TEXT_MEMORY = 0xB8000
TEXT_MEMORY_SIZE = 0x8000  # Linux scrolls by moving the screen's start through all of it
COLUMNS, ROWS = 80, 25
_CRTC = 0x3D4  # VGA: the port that takes a register's number; the next one has its content
_START_HIGH, _START_LOW = 0x0C, 0x0D  # first character shown
POLL = 0.2  # seconds between two looks

DiskFormat = Literal["raw", "vpc", "qcow2"]


class BootTimeoutError(Exception):
    """What was awaited did not come; the message says what was seen instead."""


class Boot:
    """A running QEMU of our own, with what the arguments add; leaving the context ends it.

    `com1` is where COM1 is served, for who wants to talk; by default nobody is there. It is a
    socket, or, where FIFOs with that name and .in and .out are there, those. Without `has_com1` the
    machine has no serial port at all.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        memory_mib: int,
        *,
        com1: Path | None = None,
        has_com1: bool = True,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bootgraft-boot-")
        self._runner = asyncio.Runner()
        self._qmp = QMPClient("boot")
        folder = Path(self._folder.name)
        ports = _com1_argv(folder, com1) if has_com1 else []
        argv = [*_machine_argv(memory_mib, folder), *ports, *arguments]
        self._errors = Path(self._folder.name, "qemu.err")
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=errors)
        try:
            self._runner.run(self._connect())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def cut_power(self) -> None:
        """Kill QEMU, in whatever it does; may be called from another thread."""
        self._process.kill()

    def close(self) -> None:
        """End QEMU, whatever state it is in, and remove its files."""
        self._process.kill()
        self._process.wait()
        self._runner.run(self._disconnect())
        self._runner.close()
        self._folder.cleanup()

    def console_text(self) -> str:
        """Return all that the guest has sent over COM1 so far."""
        log = Path(self._folder.name, "com1")
        return log.read_bytes().decode("ascii", "backslashreplace") if log.exists() else ""

    def screen_text(self) -> str:
        """Return the text screen at the start of the VGA memory: 25 rows of 80 characters."""
        return "\n".join(self._text_rows()[:ROWS])

    def shown_text(self) -> str:
        """Return the 25 rows that are on the screen now, wherever they lie in the VGA memory."""
        high, low = (self._read_crtc(number) for number in (_START_HIGH, _START_LOW))
        first = (high << 8 | low) // COLUMNS
        return "\n".join(self._text_rows()[first : first + ROWS])

    def _read_crtc(self, number: int) -> int:
        """Read a register of the VGA's; the guest sets the register's number anew each time."""
        self._monitor(f"o /b {_CRTC:#x} {number:#x}")
        answer = self._monitor(f"i /b {_CRTC + 1:#x}")
        return int(answer.rpartition("=")[2].strip().removeprefix("0x"), 16)

    def _monitor(self, line: str) -> str:
        return str(self._execute("human-monitor-command", **{"command-line": line}))

    def wait_for_console(self, pattern: str, timeout: float) -> re.Match[str]:
        """Wait until COM1 has shown a pattern; `timeout` in seconds. Raises BootTimeoutError."""
        return self._wait_for(pattern, timeout, "COM1", self.console_text)

    def wait_for_screen(self, pattern: str, timeout: float) -> re.Match[str]:
        """Wait until the VGA text memory holds a pattern, scrolled away or not."""
        return self._wait_for(pattern, timeout, "the screen", lambda: "\n".join(self._text_rows()))

    def wait_off(self, timeout: float) -> None:
        """Wait until the guest has powered itself off; `timeout` in seconds."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired as expired:
            raise BootTimeoutError(f"still running after {timeout} s") from expired

    def press(self, *keys: str) -> None:
        """Press keys one after the other, by QEMU's names: "ret", "down", "esc"."""
        for key in keys:
            self._execute("send-key", keys=[{"type": "qcode", "data": key}])

    def take_screenshot(self, path: Path) -> None:
        """Write a picture of the screen as PNG."""
        self._execute("screendump", filename=str(path), format="png")

    def exchange_medium(self, drive: str, iso: Path) -> None:
        """Put another ISO into a DVD drive, by the drive's id, whatever the guest says."""
        self._execute("blockdev-change-medium", device=drive, filename=str(iso), force=True)

    @property
    def is_running(self) -> bool:
        """Return whether the machine is on."""
        return self._process.poll() is None

    def cpu_seconds(self) -> float:
        """Return the processor time that QEMU has used so far, in seconds."""
        stat = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")  # utime, stime

    def _wait_for(
        self, pattern: str, timeout: float, place: str, look: Callable[[], str]
    ) -> re.Match[str]:
        deadline = time.monotonic() + timeout
        while True:
            ended = self._process.poll() is not None
            seen = "" if ended and place == "the screen" else look()
            if found := re.search(pattern, seen, re.MULTILINE):
                return found
            if ended or time.monotonic() > deadline:
                break
            time.sleep(POLL)
        why = f"QEMU ended: {self._errors.read_text()}" if ended else f"waited {timeout} s"
        screen = "" if ended else self.screen_text()
        raise BootTimeoutError(
            f"{pattern!r} did not come on {place}; {why}\n"
            f"--- screen\n{screen}\n--- COM1\n{self.console_text()[-2000:]}"
        )

    def _text_rows(self) -> list[str]:
        dump = Path(self._folder.name, "screen")
        self._execute("pmemsave", val=TEXT_MEMORY, size=TEXT_MEMORY_SIZE, filename=str(dump))
        # Every second byte is a colour.
        characters = dump.read_bytes()[::2].replace(b"\0", b" ").decode("cp437")
        starts = range(0, len(characters) - COLUMNS + 1, COLUMNS)
        return [characters[start : start + COLUMNS].rstrip() for start in starts]

    def _execute(self, command: str, **arguments: object) -> object:
        return self._runner.run(self._qmp.execute(command, arguments))

    async def _connect(self) -> None:
        deadline = time.monotonic() + 20
        socket = Path(self._folder.name, "qmp")
        while True:
            if socket.exists():
                # It has its name before it listens.
                with contextlib.suppress(ConnectError):
                    await self._qmp.connect(str(socket))
                    break
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise BootTimeoutError(f"QEMU did not start: {self._errors.read_text()}")
            await asyncio.sleep(0.05)
        await self._qmp.execute("cont")

    async def _disconnect(self) -> None:
        # QEMU is gone, and that is what is wanted.
        with contextlib.suppress(EOFError, OSError):
            await self._qmp.disconnect()


def boot_disk(disk: Path, *, disk_format: DiskFormat = "raw", memory_mib: int = 512) -> Boot:
    """Start a machine with one IDE disk, primary master, and COM1.

    The disk is left as it was: what the guest writes goes to a temporary overlay.
    """
    file = str(disk).replace(",", ",,")  # QEMU's way to write a comma in a value
    drive = f"file={file},format={disk_format},if=ide,index=0,snapshot=on"
    return Boot(["-drive", drive], memory_mib)


def _machine_argv(memory_mib: int, folder: Path) -> list[str]:
    return [
        *("setpriv", "--pdeathsig", "KILL", "--"),  # no orphan when the tests are killed
        *("qemu-system-x86_64", "-M", "pc", "-accel", "tcg,thread=multi", "-m", str(memory_mib)),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-vga", "std", "-S"),
        *("-qmp", f"unix:{folder / 'qmp'},server=on,wait=off"),
    ]


def _com1_argv(folder: Path, com1: Path | None) -> list[str]:
    log = folder / "com1"
    served = f"socket,id=com1,path={com1},server=on,wait=off,logfile={log}"
    if com1 is not None and Path(f"{com1}.out").is_fifo():
        served = f"pipe,id=com1,path={com1},logfile={log}"
    return [
        *("-chardev", served if com1 else f"file,id=com1,path={log}"),
        *("-serial", "chardev:com1"),
    ]
