"""The text on the screen of a machine that QEMU runs, from the VGA adapter's own memory."""

import re
from collections.abc import Sequence
from pathlib import Path

from bootgraft_host.machine import MachineError
from bootgraft_host.qemu_process import Command, QemuProcess

TEXT_MEMORY = 0xB8000  # colour text; each character is followed by its attributes
TEXT_MEMORY_SIZE = 0x8000
COLUMNS, ROWS = 80, 25

# VGA registers: a port that takes the register's number, the next one has its content.
_CRTC = 0x3D4
_START_HIGH, _START_LOW = 0x0C, 0x0D  # first character shown; Linux scrolls by moving it
_GRAPHICS = 0x3CE
_MISCELLANEOUS = 0x06
_GRAPHICS_MODE = 0x01

_PORT_ANSWER = re.compile(r"portb\[0x[0-9a-f]+\] = (?:0x|#)?([0-9a-f]+)", re.IGNORECASE)


def read_screen_text(qemu: QemuProcess) -> str | None:
    """Read the 80 x 25 characters that are shown; None in a graphics mode.

    The guest is stopped meanwhile, a few milliseconds, because reading a register sets another.
    """
    running = _is_running(qemu)
    if running:
        qemu.execute(Command("stop"))
    try:
        (miscellaneous,) = _read_registers(qemu, _GRAPHICS, _MISCELLANEOUS)
        if miscellaneous & _GRAPHICS_MODE:
            return None
        high, low = _read_registers(qemu, _CRTC, _START_HIGH, _START_LOW)
        memory = _read_memory(qemu)
    finally:
        if running:
            qemu.execute(Command("cont"))
    return decode_text_memory(memory, start=high << 8 | low)


def decode_text_memory(memory: bytes, start: int) -> str:
    """Decode the lines of the screen; `start` is the first character shown, counted from 0."""
    first = start * 2 % len(memory)
    cells = (memory[first:] + memory[:first])[: COLUMNS * ROWS * 2]
    text = cells[::2].replace(b"\0", b" ").decode("cp437")
    lines = (text[row * COLUMNS : (row + 1) * COLUMNS].rstrip() for row in range(ROWS))
    return "\n".join(lines).rstrip("\n")


def _is_running(qemu: QemuProcess) -> bool:
    (status,) = qemu.execute(Command("query-status"))
    return isinstance(status, dict) and status.get("status") == "running"


def _read_registers(qemu: QemuProcess, port: int, *numbers: int) -> list[int]:
    """Read registers and leave chosen the one that the guest had chosen."""
    (chosen,) = _parse_ports(qemu.execute(_read_port(port)))
    choose_and_read = [
        command
        for number in numbers
        for command in (_write_port(port, number), _read_port(port + 1))
    ]
    answers = qemu.execute(*choose_and_read, _write_port(port, chosen))
    return _parse_ports(answers[1:-1:2])


def _read_port(port: int) -> Command:
    return _monitor(f"i /b {port:#x}")


def _write_port(port: int, value: int) -> Command:
    return _monitor(f"o /b {port:#x} {value:#x}")


def _parse_ports(answers: Sequence[object]) -> list[int]:
    found = [_PORT_ANSWER.search(str(answer)) for answer in answers]
    if not all(found):
        raise MachineError(f"QEMU's monitor, asked for VGA registers: {answers}")
    return [int(match[1], 16) for match in found if match]


def _read_memory(qemu: QemuProcess) -> bytes:
    dump: Path = qemu.folder / "screen.bin"
    arguments = {"val": TEXT_MEMORY, "size": TEXT_MEMORY_SIZE, "filename": str(dump)}
    try:
        qemu.execute(Command("pmemsave", arguments))
        return dump.read_bytes()
    finally:
        dump.unlink(missing_ok=True)


def _monitor(line: str) -> Command:
    """QMP itself has no command for ports; the monitor for people has one."""
    return Command("human-monitor-command", {"command-line": line})
