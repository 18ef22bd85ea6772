"""Files and folders on a Hyper-V host, and what the host says of itself, through its scripts."""

import base64
import binascii
import ntpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from bootgraft_agent.wire import JSON
from bootgraft_host.hyperv.permissions import Descriptor, parse_sddl
from bootgraft_host.hyperv.runner import DEFAULT_TIMEOUT, HostError, Runner

BLOCK_SIZE = 1 << 20  # bytes; in Base64 it stays below 2 MiB of JSON text, a limit of older hosts
HASH_RATE = 10 * 1000 * 1000  # bytes per second that a slow disk still gives
# ISO 9660 and UDF both begin with a volume structure descriptor at sector 16: its type, then one
# of these. Sources: ECMA-119 section 8.1, ECMA-167 part 2 section 9.1.
ISO_MARK_OFFSET = 0x8001
ISO_MARKS = (b"CD001", b"BEA01")


class Answer:
    """An object that a script answered, whose fields are read with their types checked."""

    def __init__(self, fields: JSON, script: str, host: str) -> None:
        if not isinstance(fields, Mapping):
            raise HostError(f"{script} on {host} answered {fields!r}; an object was expected")
        self._fields = fields
        self._script = script
        self._host = host

    def text(self, name: str) -> str:
        """Give a text."""
        value = self._get(name)
        if not isinstance(value, str):
            raise self._wrong(name, "text")
        return value

    def flag(self, name: str) -> bool:
        """Give true or false."""
        value = self._get(name)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def number(self, name: str) -> int:
        """Give a whole number that is not negative."""
        value = self._get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self._wrong(name, "a number")
        return value

    def optional_number(self, name: str) -> int | None:
        """Give a whole number, or None where the host has $null."""
        return None if self._get(name) is None else self.number(name)

    def data(self, name: str) -> bytes:
        """Give bytes, which come in Base64."""
        try:
            return base64.b64decode(self.text(name), validate=True)
        except binascii.Error as error:
            raise self._wrong(name, "Base64") from error

    def texts(self, name: str) -> tuple[str, ...]:
        """Give a list of texts."""
        found = tuple(item for item in self._list(name) if isinstance(item, str))
        if len(found) != len(self._list(name)):
            raise self._wrong(name, "texts")
        return found

    def objects(self, name: str) -> Iterator["Answer"]:
        """Give a list of objects."""
        for item in self._list(name):
            yield Answer(item, self._script, self._host)

    def _list(self, name: str) -> list[JSON]:
        value = self._get(name)
        if not isinstance(value, list):
            raise self._wrong(name, "a list")
        return value

    def _get(self, name: str) -> JSON:
        if name not in self._fields:
            raise HostError(f"{self._script} on {self._host} did not answer with {name}")
        return self._fields[name]

    def _wrong(self, name: str, expected: str) -> HostError:
        found = str(self._fields[name])[:200]
        return HostError(
            f"{self._script} on {self._host} answered {name} = {found!r}; {expected} was expected"
        )


def ask(
    runner: Runner,
    script: str,
    asked: Mapping[str, JSON] | None = None,
    *,
    timeout: float = DEFAULT_TIMEOUT,
) -> Answer:
    """Run a script that answers with exactly one object. Raises HostError."""
    answers = runner.run(script, asked, timeout=timeout)
    if len(answers) != 1:
        raise HostError(
            f"{script} on {runner.host} answered with {len(answers)} objects; one was expected"
        )
    return Answer(answers[0], script, runner.host)


# The host.


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What a host says of itself and of us."""

    computer_name: str
    program_data: str
    powershell: str
    windows: str
    utc_now: datetime
    user: str
    user_sid: str
    group_sids: tuple[str, ...]
    hyperv_modules: tuple[str, ...]  # versions
    free: Mapping[str, int]  # bytes, by drive as in C:\


def read_host(runner: Runner, drives: Iterable[str] = ()) -> HostFacts:
    """Read what a host says of itself, and the free space of some of its drives."""
    answer = ask(runner, "host", {"Drives": list(drives)})
    try:
        utc_now = datetime.fromisoformat(answer.text("UtcNow"))
    except ValueError as error:
        raise HostError(f"{runner.host} has an unreadable clock: {error}") from error
    return HostFacts(
        computer_name=answer.text("ComputerName"),
        program_data=answer.text("ProgramData"),
        powershell=answer.text("PowerShell"),
        windows=answer.text("Windows"),
        utc_now=utc_now,
        user=answer.text("User"),
        user_sid=answer.text("UserSid"),
        group_sids=answer.texts("GroupSids"),
        hyperv_modules=answer.texts("HyperVModules"),
        free={
            each.text("Name"): each.number("AvailableBytes") for each in answer.objects("Drives")
        },
    )


def drive_of(path: str) -> str | None:
    r"""Give the drive of a path, as in C:\; None where it has no letter."""
    drive = ntpath.splitdrive(path)[0]
    return drive.upper() + "\\" if len(drive) == 2 and drive[1] == ":" else None


def read_free_space(runner: Runner, path: str) -> int | None:
    """Read how many bytes are free where `path` is; None where that cannot be told."""
    drive = drive_of(path)
    return None if drive is None else read_host(runner, [drive]).free.get(drive)


# Files and folders.


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder on the host."""

    attributes: str
    descriptor: Descriptor

    @property
    def is_link(self) -> bool:
        """Whether it is a junction, a symbolic link or the like: its content is elsewhere."""
        return "ReparsePoint" in self.attributes


def is_file(runner: Runner, path: str) -> bool:
    """Look whether there is a file of this name."""
    (checked,) = _look(runner, check=[path]).objects("Checked")
    return checked.flag("IsFile")


def is_folder(runner: Runner, path: str) -> bool:
    """Look whether there is a folder of this name."""
    (checked,) = _look(runner, check=[path]).objects("Checked")
    return checked.flag("IsFolder")


def measure_files(runner: Runner, paths: Iterable[str]) -> dict[str, int | None]:
    """Read the files' sizes in bytes; None where there is no such file."""
    sizes: dict[str, int | None] = dict.fromkeys(paths)
    checked = _look(runner, check=list(sizes)).objects("Checked")
    there = [each.text("Path") for each in checked if each.flag("IsFile")]
    if there:
        for each in _look(runner, measure=there).objects("Measured"):
            sizes[each.text("Path")] = each.number("Length")
    return sizes


def list_files(runner: Runner, folder: str) -> dict[str, int]:
    """Read which files are in a folder, and their sizes in bytes."""
    listed = _look(runner, list_=[folder]).objects("Listed")
    return {each.text("Name"): each.number("Length") for each in listed}


def _look(
    runner: Runner,
    *,
    check: Iterable[str] = (),
    measure: Iterable[str] = (),
    list_: Iterable[str] = (),
) -> Answer:
    return ask(
        runner, "files", {"Check": list(check), "Measure": list(measure), "List": list(list_)}
    )


def read_range(runner: Runner, path: str, offset: int, count: int) -> bytes:
    """Read up to `count` bytes, at most BLOCK_SIZE, at `offset`; fewer at the end of the file."""
    asked: dict[str, JSON] = {"Path": path, "Offset": offset, "Count": count}
    return ask(runner, "read-file", asked).data("Data")


def find_iso_problem(runner: Runner, path: str) -> str | None:
    """Say why a file on the host is no ISO that can be read; None where it is one."""
    if not is_file(runner, path):
        return f"{path} is not a file on {runner.host}"
    try:
        mark = read_range(runner, path, ISO_MARK_OFFSET, len(ISO_MARKS[0]))
    except HostError as error:
        return f"{path} cannot be read: {error}"
    if mark not in ISO_MARKS:
        return f"{path} on {runner.host} is no ISO: it has no ISO 9660 or UDF volume"
    return None


def hash_file(runner: Runner, path: str, size: int) -> str:
    """Compute the SHA-256 of a file of about `size` bytes on the host; hexadecimal digits."""
    timeout = DEFAULT_TIMEOUT + size / HASH_RATE
    return ask(runner, "hash", {"Path": path}, timeout=timeout).data("Sha256").hex()


def read_folder(runner: Runner, path: str) -> Folder:
    """Read a folder's attributes and permissions."""
    answer = ask(runner, "folder", {"Path": path})
    return Folder(answer.text("Attributes"), parse_sddl(answer.text("Sddl")))


def make_folder(runner: Runner, path: str, sddl: str) -> None:
    """Make a folder; one that exists stays as it is, whosever it is."""
    runner.run("make-folder", {"Path": path, "Sddl": sddl})


def write_block(runner: Runner, path: str, offset: int, data: bytes, *, flush: bool) -> None:
    """Write at most BLOCK_SIZE bytes, where the file ends then; done twice it is done once."""
    text = base64.b64encode(data).decode("ascii")
    asked: dict[str, JSON] = {"Path": path, "Offset": offset, "Data": text, "Flush": flush}
    length = ask(runner, "write-block", asked).number("Length")
    if length != offset + len(data):
        raise HostError(
            f"{path} on {runner.host} has {length} bytes after a block was written at {offset};"
            f" {offset + len(data)} were expected"
        )


def rename_file(runner: Runner, path: str, new_path: str) -> None:
    """Give a file another name, which nothing has yet."""
    runner.run("rename", {"Path": path, "NewPath": new_path})


def remove_paths(runner: Runner, files: Iterable[str] = (), folders: Iterable[str] = ()) -> None:
    """Remove files, where they exist, then empty folders."""
    runner.run("remove", {"Files": list(files), "Folders": list(folders)})
