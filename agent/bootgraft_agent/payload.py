"""The payload: the shim directory of Microsoft's ISO, wherever it is mounted."""

from collections.abc import Iterable
from dataclasses import dataclass

from bootgraft_agent import multiboot
from bootgraft_agent.errors import AmbiguousError, RefusedError
from bootgraft_agent.files import Tree
from bootgraft_agent.images import MAX_IMAGE, recognise_file

MAX_PAYLOAD_FILES = 256
MAX_PAYLOAD = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PayloadFile:
    """A regular file of the payload's shim directory."""

    source: str  # path in the payload
    name: str  # its name in the guest's boot directory
    size: int
    sha256: str
    image: multiboot.Image


@dataclass(frozen=True, slots=True)
class Payload:
    """The payload: where it was found, and the files of its shim directory."""

    name: str
    files: tuple[PayloadFile, ...]
    skipped: tuple[str, ...]  # what lies there and is no regular file


def find_shim_directory(tree: Tree) -> str | None:
    """Find the payload's `shim` directory, whatever the case of its name.

    Raises AmbiguousError for several.
    """
    found = [name for name in tree.names("") if plain_name(name).lower() == "shim"]
    directories = [name for name in found if tree.is_directory(name)]
    if len(directories) > 1:
        listed = " and ".join(f"/{each}" for each in directories)
        raise AmbiguousError(f"the payload has several shim directories: {listed}")
    return directories[0] if directories else None


def plain_name(name: str) -> str:
    """Give a file's name without what ISO 9660 adds where there is no Rock Ridge.

    `XEN.GZ;1` is `xen.gz`; a name without a version number stays as it is.
    """
    plain, semicolon, version = name.rpartition(";")
    if not semicolon or not version.isdigit():
        return name
    plain = plain.rstrip(".")
    return plain.lower() if plain == plain.upper() else plain


def read_payload(tree: Tree, name: str) -> Payload:
    """Read the files of the payload's shim directory.

    Raises RefusedError where there is none, or it is empty, or beyond all bounds.
    """
    directory = find_shim_directory(tree)
    if directory is None:
        raise RefusedError(
            f"{name} has no directory named shim: it is not the Linux Integration Components ISO"
            " that carries the shim; attach that one as the payload"
        )
    names = tree.names(directory)
    if len(names) > MAX_PAYLOAD_FILES:
        raise RefusedError(
            f"{name}: {directory} holds {len(names)} names, more than the {MAX_PAYLOAD_FILES} that"
            " a shim directory may have"
        )
    paths = {each: f"{directory}/{each}" for each in names}
    regular = [each for each in names if tree.is_file(paths[each])]
    if not regular:
        raise RefusedError(f"{name}: {directory} holds no file, so there is no shim to copy")
    files = tuple(_read_payload_file(tree, paths[each], plain_name(each)) for each in regular)
    total = sum(file.size for file in files)
    if total > MAX_PAYLOAD:
        raise RefusedError(f"{name}: {directory} holds {total} bytes, more than {MAX_PAYLOAD}")
    _refuse_same_names(name, files)
    return Payload(name, files, tuple(each for each in names if each not in regular))


def _read_payload_file(tree: Tree, path: str, name: str) -> PayloadFile:
    try:
        size, image = recognise_file(tree, path)
        digest = tree.digest(path) if size <= MAX_IMAGE else None
    except OSError as error:
        raise RefusedError(
            f"cannot read {path} of the payload: {error.strerror}; is the ISO complete?"
        ) from error
    if digest is None:
        raise RefusedError(f"{path} of the payload cannot be copied: {image.problem}")
    return PayloadFile(path, name, size, digest, image)


def _refuse_same_names(payload: str, files: Iterable[PayloadFile]) -> None:
    sources: dict[str, str] = {}
    for file in files:
        other = sources.setdefault(file.name, file.source)
        if other != file.source:
            raise AmbiguousError(f"{payload}: {other} and {file.source} are both {file.name}")
