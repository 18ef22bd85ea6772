"""Copying ISOs to a folder on the host, in blocks, resumed after any cut.

An ISO that lies on the host is read by the virtual machine's own account; a copy made in a folder
with the right permissions has them, one that was moved there keeps those of its old place.
"""

import hashlib
import logging
import ntpath
import os
import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeVar

from bootgraft_host.hyperv.host_files import (
    BLOCK_SIZE,
    hash_file,
    is_folder,
    list_files,
    measure_files,
    read_free_space,
    remove_paths,
    rename_file,
    write_block,
)
from bootgraft_host.hyperv.runner import (
    AccessError,
    HostError,
    Runner,
    ScriptError,
    UnreachableError,
)
from bootgraft_host.hyperv.upload_folder import check_base, find_folder, prepare_folder
from bootgraft_host.machine import MachineError
from bootgraft_host.replies import Progress

RETRY_FOR = 120.0  # seconds without any block through, until an unreachable host is given up
RETRY_INTERVAL = 2.0  # seconds
PART = ".part"
COMPLETE = re.compile(r"bootgraft-[0-9a-f]{16}\.iso")

_Result = TypeVar("_Result")
Tell = Callable[[Progress], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LocalIso:
    """An ISO here, as it was when it was read through."""

    path: Path
    size: int  # bytes
    modified: int  # nanoseconds since 1970
    sha256: str

    @property
    def name(self) -> str:
        """What it is called on the host."""
        return f"bootgraft-{self.sha256[:16]}.iso"


@dataclass(frozen=True, slots=True)
class UploadedIso:
    """An ISO on the host."""

    path: str
    size: int  # bytes
    sha256: str


def upload_isos(
    runner: Runner, base: str | None, vm_id: str, isos: Sequence[Path], tell: Tell
) -> tuple[UploadedIso, ...]:
    """Have the ISOs in the machine's folder on the host; what is there already is kept.

    `base` is the host's upload_folder, if it has one. Raises MachineError: HostError for what is
    wrong on the host, UnreachableError when it stays away for RETRY_FOR seconds.
    """
    patience = _Patience()
    folder = _persist(lambda: prepare_folder(runner, base, vm_id), patience)
    local = [read_iso(path) for path in isos]
    return tuple(
        _upload(_Copy(runner, iso, ntpath.join(folder, iso.name), step, tell, patience))
        for step, iso in enumerate(local, start=1)
    )


def verify_again(runner: Runner, uploaded: Sequence[UploadedIso]) -> None:
    """Compare the ISOs on the host with what was uploaded. Raises HostError."""
    sizes = measure_files(runner, [iso.path for iso in uploaded])
    for iso in uploaded:
        if sizes[iso.path] is None:
            raise HostError(f"{iso.path} on {runner.host} is gone since it was uploaded")
        if hash_file(runner, iso.path, iso.size) != iso.sha256:
            raise HostError(
                f"{iso.path} on {runner.host} is not what was uploaded; look who changed it, and"
                " remove it"
            )


def remove_uploads(
    runner: Runner,
    base: str | None,
    vm_id: str,
    *,
    parts: bool = False,
    keep: Collection[str] = (),
) -> None:
    """Remove a machine's complete ISOs, and its folder once that is empty; idempotent.

    What was copied in part stays, to be resumed, but for `parts`; so do the paths in `keep`. A
    folder that others may change is left as it is: they could have us remove something else.
    """
    folder = find_folder(runner, base, vm_id)
    if not is_folder(runner, folder):
        return
    try:
        check_base(runner, ntpath.dirname(folder))
        check_base(runner, folder)
    except (AccessError, UnreachableError):
        raise
    except HostError as error:
        log.warning("nothing is removed from %s: %s", folder, error)
        return
    names = set(list_files(runner, folder))
    kept = {ntpath.normcase(path) for path in keep}
    ours = {
        name
        for name in names
        if COMPLETE.fullmatch(name.removesuffix(PART) if parts else name)
        and ntpath.normcase(ntpath.join(folder, name)) not in kept
    }
    folders = [folder] if ours == names else []
    remove_paths(runner, [ntpath.join(folder, name) for name in sorted(ours)], folders)


# The file here.


def read_iso(path: Path) -> LocalIso:
    """Read an ISO through. Raises MachineError where that fails."""
    try:
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error
    return LocalIso(path, before.st_size, before.st_mtime_ns, digest)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error


def _read(file: BinaryIO, size: int) -> bytes:
    try:
        return file.read(size)
    except OSError as error:
        raise _unreadable(Path(file.name), error) from error


def _unreadable(path: Path, error: OSError) -> MachineError:
    return MachineError(f"cannot read {path}: {error.strerror}")


def _hash_prefix(file: BinaryIO, size: int) -> "hashlib._Hash":
    """Read the first `size` bytes."""
    digest = hashlib.sha256()
    while size > 0 and (data := _read(file, min(size, BLOCK_SIZE))):
        digest.update(data)
        size -= len(data)
    return digest


# One upload.


@dataclass(slots=True)
class _Copy:
    """An ISO on its way to `path` on the host."""

    runner: Runner
    iso: LocalIso
    path: str
    step: int
    tell: Tell
    patience: "_Patience"

    @property
    def part(self) -> str:
        return self.path + PART

    def note(self, done: int) -> None:
        """Tell how far it is."""
        text = f"upload {self.iso.path.name} to {self.runner.host}"
        self.tell(Progress(self.step, text, done, self.iso.size))

    def give_up(self, reason: str) -> MachineError:
        """Remove what was copied; gives the error to raise."""
        try:
            remove_paths(self.runner, [self.part])
        except HostError as error:
            reason = f"{reason}; besides, {self.part} is left: {error}"
        return MachineError(f"{self.iso.path} was not uploaded: {reason}")


def _upload(copy: _Copy) -> UploadedIso:
    copy.patience.renew()
    _persist(lambda: _try_to_upload(copy), copy.patience)
    return UploadedIso(copy.path, copy.iso.size, copy.iso.sha256)


@dataclass(slots=True)
class _Patience:
    """How long a host may be unreachable: RETRY_FOR seconds since something was got through."""

    since: float = field(default_factory=time.monotonic)

    def renew(self) -> None:
        self.since = time.monotonic()

    @property
    def is_over(self) -> bool:
        return time.monotonic() - self.since > RETRY_FOR


def _persist(work: Callable[[], _Result], patience: _Patience) -> _Result:
    """Do what can be begun anew at any time until it is done."""
    while True:
        try:
            return work()
        except UnreachableError as error:
            if patience.is_over:
                raise
            log.warning("%s; trying again", error)
            time.sleep(RETRY_INTERVAL)


def _try_to_upload(copy: _Copy) -> None:
    """Do what is left to do, as far as the files on the host say."""
    sizes = measure_files(copy.runner, [copy.path, copy.part])
    if sizes[copy.path] is not None:
        if hash_file(copy.runner, copy.path, copy.iso.size) == copy.iso.sha256:
            copy.note(copy.iso.size)
            return
        remove_paths(copy.runner, [copy.path])
    with _open(copy.iso.path) as file:
        _send_blocks(copy, file, sizes[copy.part] or 0)
    if hash_file(copy.runner, copy.part, copy.iso.size) != copy.iso.sha256:
        raise copy.give_up(f"{copy.part} on {copy.runner.host} is not what was sent; run again")
    rename_file(copy.runner, copy.part, copy.path)


def _send_blocks(copy: _Copy, file: BinaryIO, copied: int) -> None:
    """Send what the part on the host, `copied` bytes long, lacks."""
    iso = copy.iso
    _check_unchanged(copy, file)
    digest = _hash_prefix(file, copied if copied <= iso.size else 0)
    if copied and (
        copied > iso.size or hash_file(copy.runner, copy.part, copied) != digest.hexdigest()
    ):
        log.info("%s on %s is of no use; begin anew", copy.part, copy.runner.host)
        file.seek(0)
        digest, copied = hashlib.sha256(), 0
    _check_space(copy, iso.size - copied)
    copy.note(copied)
    while copied < iso.size and (data := _read(file, BLOCK_SIZE)):
        digest.update(data)
        _send_block(copy, copied, data)
        copied += len(data)
        copy.patience.renew()
        copy.note(copied)
    _check_unchanged(copy, file)
    if digest.hexdigest() != iso.sha256:
        raise _changed(copy)


def _send_block(copy: _Copy, offset: int, data: bytes) -> None:
    is_last = offset + len(data) >= copy.iso.size
    try:
        write_block(copy.runner, copy.part, offset, data, flush=is_last)
    except ScriptError:
        copy.runner.close()  # and with the session the file, which failed in the script's hands
        _check_space(copy, copy.iso.size - offset)
        raise


def _check_space(copy: _Copy, needed: int) -> None:
    """Give up where the host's disk is too full for `needed` bytes."""
    free = read_free_space(copy.runner, copy.part)
    if free is not None and free < needed:
        raise copy.give_up(
            f"{copy.runner.host} has {free:,} bytes free where {ntpath.dirname(copy.part)} is;"
            f" {needed:,} are needed; make room, or set upload_folder in hosts.toml"
        )


def _check_unchanged(copy: _Copy, file: BinaryIO) -> None:
    now = os.fstat(file.fileno())
    if (now.st_size, now.st_mtime_ns) != (copy.iso.size, copy.iso.modified):
        raise _changed(copy)


def _changed(copy: _Copy) -> MachineError:
    return copy.give_up("it was changed meanwhile; run again once it is finished")
