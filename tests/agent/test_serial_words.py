"""The unattended mode's words on a serial port: read, not read, broken, or not there."""

import json
import os
import select
import time
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootgraft_agent import serial_words
from bootgraft_agent.result import SERIAL_MARK, Result, serial_lines
from bootgraft_agent.serial_words import SerialWords

RESULT = Result("refused", "No disk: /mör\x1b[2J password=hunter2.", "Attach one.")


@pytest.fixture
def port() -> Iterator[tuple[int, str]]:
    """A terminal in the port's place: the other end, and the name of this one."""
    master, slave = os.openpty()
    tty.setraw(slave)
    yield master, os.ttyname(slave)
    os.close(master)
    os.close(slave)


def read_all(fd: int) -> bytes:
    heard = b""
    while select.select([fd], [], [], 0.2)[0]:
        heard += os.read(fd, 65536)
    return heard


def test_a_reader_gets_words_and_one_line_that_programs_read(port: tuple[int, str]) -> None:
    words = SerialWords(port[1])
    words.say("looking at \x1b[2J token=hunter2")
    assert words.write_result(serial_lines(RESULT)) is True
    lines = read_all(port[0]).decode("ascii").split("\r\n")
    assert lines[0] == "bootgraft: looking at \\x1b[2J token=********"
    assert lines[1].startswith("bootgraft: FAILED: No disk: /m\\xf6r")
    assert lines[2] == "bootgraft: next: Attach one."
    assert lines[3].startswith(SERIAL_MARK)
    document = json.loads(lines[3].removeprefix(SERIAL_MARK))
    assert (document["ok"], document["outcome"]) == (False, "refused")
    assert lines[4:] == [""]
    assert "hunter2" not in "".join(lines)
    assert "\x1b" not in "".join(lines)


def test_nobody_is_waited_for_who_never_reads(
    port: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serial_words, "LINE_TIMEOUT", 0.2)
    monkeypatch.setattr(serial_words, "RESULT_TIMEOUT", 0.5)
    words = SerialWords(port[1])
    began = time.monotonic()
    for _ in range(10_000):
        words.say("x" * 80)
    assert words.write_result(b"y" * 1_000_000) is False
    assert time.monotonic() - began < 3


def test_who_reads_again_gets_the_result_on_a_line_of_its_own(
    port: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serial_words, "LINE_TIMEOUT", 0.1)
    words = SerialWords(port[1])
    for _ in range(10_000):
        words.say("x" * 80)
    read_all(port[0])
    assert words.write_result(serial_lines(RESULT)) is True
    assert f"\r\n{SERIAL_MARK}" in read_all(port[0]).decode("ascii")


@pytest.mark.parametrize("name", ["nothing-of-this-name", "a-file"])
def test_a_machine_without_a_serial_port_stops_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "a-file").touch()
    words = SerialWords(str(tmp_path / name))
    words.say("looking")
    assert words.write_result(b"result") is False
    assert (tmp_path / "a-file").read_bytes() == b""
