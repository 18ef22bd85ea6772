"""What runs leave on the controller's disk.

::

    <state>/runs/<UTC time>-<machine>-<random>/     one run, mode 0700, kept
        result.json         what happened, whole
        run.log             a line per step and event
        console.log         COM1 while the live system ran, raw
        console-confirm.log COM1 of the boot that proves the graft, raw
        text-01-before.txt, text-01-after.txt, text-01.diff ...
                            guest texts; result.json says of which files
        screen-*.png        pictures of the machine's screen
    <state>/machines/<machine id>/                  one machine, mode 0700
        lock                held (flock) by the controller that works on the machine
        unfinished.json     the captured configuration; there while the machine is not restored

All names are made here, never from the guest's.
"""

import json
import logging
import os
import re
import secrets
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Literal, get_args

from bootgraft_agent.errors import BootgraftError, InvalidRequestError, RefusedError
from bootgraft_agent.wire import JSON
from bootgraft_host.file_locks import try_lock
from bootgraft_host.machine import Configuration
from bootgraft_host.replies import Diff, Texts
from bootgraft_host.text import printable_lines

RECORD_FORMAT = 1
TRANSCRIPT_LIMIT = 64 * 1024 * 1024  # bytes; a guest that prints for ever fills no disk
_TRANSCRIPT_CUT = b"\n[bootgraft: the transcript was cut here]\n"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_LOGGER = "bootgraft_host"

# How far a run got, as far as its machine and its guest are concerned.
Stage = Literal[
    "captured",  # the machine may be prepared; the guest is untouched
    "changing",  # the agent was asked to change the guest, and has not answered yet
    "grafted",  # the guest is grafted, or was found so
]


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A machine's record: the only truth for restoring it."""

    machine_id: str
    machine_name: str
    target: str  # what names the machine on the command line
    run_id: str
    started: str
    stage: Stage
    configuration: Configuration
    checkpoint: str | None = None  # the one that was taken for this run, or was to be taken
    legacy_adapter: bool = True  # the graft is one that needs a legacy network adapter

    @property
    def keeps_adapter(self) -> bool:
        """Whether the network adapter stays a legacy one when the machine is restored."""
        return self.stage == "grafted" and self.legacy_adapter


class DamagedRecordError(BootgraftError):
    """A machine's record cannot be read, so that it cannot be restored by it."""

    exit_status = 3


class Transcript:
    """A raw record of a console, up to TRANSCRIPT_LIMIT bytes. Callable with more bytes."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._left = TRANSCRIPT_LIMIT

    def __call__(self, data: bytes) -> None:
        """Take more bytes; raises OSError where they cannot be written."""
        if self._file.closed or not self._left:
            return
        self._file.write(data[: self._left])
        self._left = max(0, self._left - len(data))
        if not self._left:
            self._file.write(_TRANSCRIPT_CUT)

    def close(self) -> None:
        """Take no more."""
        self._file.close()


class _HarmlessFormatter(logging.Formatter):
    """Formats records, tracebacks included, without control characters of the guest's."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(printable_lines(super().format(record)))


class _RunLog(logging.FileHandler):
    """Writes run.log as far as it can: a full disk must not decide over a run."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """Leave a record out that cannot be written."""

    def close(self) -> None:
        """Close the file, whether or not its last part could be written."""
        with suppress(OSError):
            super().close()


class Run:
    """The directory of one run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def run_id(self) -> str:
        """The run's name, also that of its backups in the guest."""
        return self.directory.name

    def open_transcript(self, name: Literal["console", "console-confirm"]) -> Transcript:
        """Start the raw record of a console."""
        return Transcript(self.directory / f"{name}.log")

    def picture(self, name: str) -> Path:
        """Give the path of a screenshot."""
        return self.directory / f"screen-{name}.png"

    def save_texts(
        self, texts: Sequence[Texts], diffs: Sequence[Diff]
    ) -> tuple[Mapping[str, JSON], ...]:
        """Write the texts before and after and their diffs; give which file holds what."""
        saved: dict[str, dict[str, JSON]] = {}
        for each in texts:
            entry = self._entry(saved, each.path)
            for side, text in (("before", each.before), ("after", each.after)):
                if text is not None:
                    entry[side] = self._save(f"{entry['name']}-{side}.txt", text)
        for diff in diffs:
            entry = self._entry(saved, diff.path)
            entry["diff"] = self._save(f"{entry['name']}.diff", diff.diff)
        return tuple({"path": path, **entry} for path, entry in saved.items())

    def _entry(self, saved: dict[str, dict[str, JSON]], path: str) -> dict[str, JSON]:
        return saved.setdefault(path, {"name": f"text-{len(saved) + 1:02}"})

    def _save(self, name: str, text: str) -> str:
        path = self.directory / name
        try:
            data = text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:  # a surrogate that stands for no byte: not the guest's text
            data = text.encode("utf-8", "surrogatepass")
        path.write_bytes(data)
        return str(path)

    def write_result(self, document: Mapping[str, JSON]) -> None:
        """Write result.json, whole."""
        write_durably(self.directory / "result.json", encode_document(document))

    def read_result(self) -> Mapping[str, JSON] | None:
        """Read result.json; None where the run left none."""
        try:
            document = json.loads((self.directory / "result.json").read_bytes())
        except (OSError, ValueError):
            return None
        return document if isinstance(document, dict) else None

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Write the program's log to run.log meanwhile."""
        handler = _RunLog(self.directory / "run.log", encoding="utf-8")
        handler.setFormatter(_HarmlessFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger = logging.getLogger(_LOGGER)
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        try:
            yield
        finally:
            logger.setLevel(level)
            logger.removeHandler(handler)
            handler.close()


class StateDirectory:
    """The folder that holds all runs and the machines' records."""

    def __init__(self, root: Path, *, named: bool = False) -> None:
        """Use `root`; `named` tells that it is not the default, so that commands must name it."""
        self.root = root
        self._named = named

    def command(self, name: str, target: str, *more: str) -> str:
        """Give a command for people to type that works on a machine with these records."""
        state = ("--state-dir", str(self.root)) if self._named else ()
        return f"`{shlex.join(('bootgraft', name, target, *more, *state))}`"

    def create_run(self, machine_name: str) -> Run:
        """Make a new run's directory."""
        stamp = utc_now().strftime("%Y%m%dT%H%M%SZ")
        name = re.sub(r"[^A-Za-z0-9-]+", "-", machine_name).strip("-")[:40] or "machine"
        directory = self.root / "runs" / f"{stamp}-{name}-{secrets.token_hex(4)}"
        make_private_directory(directory)
        return Run(directory)

    def list_runs(self) -> tuple[Run, ...]:
        """Give all runs, the oldest first."""
        return tuple(Run(path) for path in self._folders("runs"))

    @contextmanager
    def locked(self, machine_id: str) -> Iterator[None]:
        """Keep other controllers away from a machine. Raises RefusedError where one is at work."""
        folder = self._machine_folder(machine_id)
        make_private_directory(folder)
        with open(folder / "lock", "a+b", buffering=0, opener=_open_private) as lock:
            _lock_or_refuse(lock, machine_id)
            lock.truncate(0)
            lock.write(str(os.getpid()).encode())
            yield

    def is_locked(self, machine_id: str) -> bool:
        """Tell whether a controller works on a machine just now."""
        try:
            with self.locked(machine_id):
                return False
        except RefusedError:
            return True

    def store_unfinished(self, record: Unfinished) -> None:
        """Put a machine's record on disk, durably."""
        folder = self._machine_folder(record.machine_id)
        make_private_directory(folder)
        document = {"format": RECORD_FORMAT, **asdict(record)}
        write_durably(folder / "unfinished.json", encode_document(document))

    def read_unfinished(self, machine_id: str) -> Unfinished | None:
        """Read a machine's record; None: it is restored. Raises DamagedRecordError."""
        path = self._machine_folder(machine_id) / "unfinished.json"
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return _parse_unfinished(json.loads(data), machine_id)
        except (ValueError, KeyError, TypeError, StopIteration) as error:
            raise DamagedRecordError(
                f"{path} is damaged ({error!r}): restore the machine by hand, then remove it"
            ) from error

    def list_unfinished(self) -> tuple[Unfinished, ...]:
        """Give the records of all machines that are not restored, but for the damaged ones."""
        return tuple(each for each in self._read_records() if isinstance(each, Unfinished))

    def list_damaged(self) -> tuple[DamagedRecordError, ...]:
        """Say which machines' records cannot be read."""
        return tuple(each for each in self._read_records() if isinstance(each, DamagedRecordError))

    def _read_records(self) -> Iterator[Unfinished | DamagedRecordError | None]:
        for folder in self._folders("machines"):
            try:
                yield self.read_unfinished(folder.name)
            except DamagedRecordError as error:
                yield error

    def how_to_forget(self, machine_id: str) -> str:
        """Name the command that removes the record of a machine that will never come back."""
        path = self._machine_folder(machine_id) / "unfinished.json"
        return f"if it was deleted, nothing is left to restore: `{shlex.join(('rm', str(path)))}`"

    def remove_unfinished(self, machine_id: str) -> None:
        """Note durably that a machine is restored."""
        folder = self._machine_folder(machine_id)
        (folder / "unfinished.json").unlink(missing_ok=True)
        _fsync_directory(folder)

    def _machine_folder(self, machine_id: str) -> Path:
        if not _ID.fullmatch(machine_id):
            raise BootgraftError(f"the machine's id {machine_id!r} cannot name a directory")
        return self.root / "machines" / machine_id

    def _folders(self, name: str) -> list[Path]:
        folder = self.root / name
        return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def default_state_directory(environment: Mapping[str, str]) -> Path:
    """Give $XDG_STATE_HOME/bootgraft, or the same in ~/.local/state."""
    home = environment.get("XDG_STATE_HOME", "")
    try:
        base = Path(home) if Path(home).is_absolute() else Path.home() / ".local" / "state"
    except RuntimeError as error:
        raise InvalidRequestError(
            "you have no home directory: name one with --state-dir"
        ) from error
    return base / "bootgraft"


def utc_now() -> datetime:
    """Give the present moment, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


def encode_document(document: Mapping[str, JSON] | Mapping[str, object]) -> bytes:
    """Give a JSON document for people and programs, plain ASCII."""
    return json.dumps(document, indent=2, allow_nan=False).encode("ascii") + b"\n"


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file's content: old or new after a crash, and new once this returns."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb", opener=_open_private) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _fsync_directory(path.parent)


def _open_private(path: str, flags: int) -> int:
    """Open a file that only its owner can read, where it is new."""
    return os.open(path, flags, 0o600)


def make_private_directory(path: Path) -> None:
    """Make a directory that only its owner can enter, and its parents; durably."""
    if path.is_dir():
        return
    make_private_directory(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    _fsync_directory(path.parent)


def _fsync_directory(path: Path) -> None:
    if sys.platform == "win32":  # directories cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock_or_refuse(lock: IO[bytes], machine_id: str) -> None:
    if not try_lock(lock):
        lock.seek(0)
        holder = lock.read(20).decode("ascii", "replace") or "unknown"
        raise RefusedError(
            f"another bootgraft (process {holder}) works on the machine {machine_id}:"
            " wait until it is done"
        )


def _parse_unfinished(document: Mapping[str, JSON], machine_id: str) -> Unfinished:
    if document["format"] != RECORD_FORMAT or document["machine_id"] != machine_id:
        raise ValueError("another format, or another machine's record")
    words = {}
    for name in ("machine_name", "target", "run_id", "started", "stage"):
        value = document[name]
        if not isinstance(value, str):
            raise TypeError(f"{name} is no text")
        words[name] = value
    configuration, checkpoint = document["configuration"], document.get("checkpoint")
    legacy_adapter = document.get("legacy_adapter", True)
    if not isinstance(configuration, Mapping):
        raise TypeError("configuration is no object")
    if not isinstance(checkpoint, str | None):
        raise TypeError("checkpoint is no text")
    if not isinstance(legacy_adapter, bool):
        raise TypeError("legacy_adapter is neither true nor false")
    stages: tuple[Stage, ...] = get_args(Stage)
    return Unfinished(
        machine_id=machine_id,
        machine_name=words["machine_name"],
        target=words["target"],
        run_id=words["run_id"],
        started=words["started"],
        stage=next(stage for stage in stages if stage == words["stage"]),
        configuration=configuration,
        checkpoint=checkpoint,
        legacy_adapter=legacy_adapter,
    )
