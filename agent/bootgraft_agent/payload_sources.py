"""Where the payload may lie: on a DVD, on the live ISO itself, or beside that on a disk."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bootgraft_agent import mounts
from bootgraft_agent.disks import DvdDrive, LiveVolume
from bootgraft_agent.errors import AmbiguousError, RefusedError
from bootgraft_agent.files import Tree
from bootgraft_agent.payload import Payload, find_shim_directory, read_payload


@dataclass(frozen=True, slots=True)
class PayloadSource:
    """A medium that may hold the payload; without a file system's name it is a DVD's."""

    name: str
    device: Path
    fs_type: str | None
    is_live_medium: bool

    @contextlib.contextmanager
    def open(self) -> Iterator[Tree]:
        """Mount it. Raises RefusedError where that cannot be."""
        with self._mounted() as place, Tree(place) as tree:
            yield tree

    def _mounted(self) -> contextlib.AbstractContextManager[Path]:
        if self.fs_type is None:
            return mounts.mounted_dvd(self.device, self.name)
        if self.fs_type in mounts.STICK_FILE_SYSTEMS:
            return mounts.mounted(self.device, self.fs_type, self.name)
        return mounts.mounted_view(self.device, self.fs_type, self.name)


def find_payload(
    drives: Iterable[DvdDrive], live_volumes: Iterable[LiveVolume]
) -> tuple[Payload | None, str | None, PayloadSource | None]:
    """Find the medium with the shim: its content and place, or why there is none.

    A DVD counts before what the live ISO brings along. Raises AmbiguousError for several.
    """
    notes: list[str] = []
    for sources in _in_order(drives, live_volumes, notes):
        found = [each for source in sources for each in _read(source, notes)]
        if len(found) > 1:
            listed = " and ".join(payload.name for payload, _ in found)
            raise AmbiguousError(f"{listed} both hold a shim directory; eject one of these DVDs")
        if found:
            return found[0][0], None, found[0][1]
    looked = "; ".join(notes) or "the machine has no DVD drive"
    return None, f"no payload DVD with a shim was found: {looked}", None


def read_shim(source: PayloadSource) -> tuple[Payload | None, str | None]:
    """Read the shim of a medium that was found already, or say why there is none."""
    notes: list[str] = []
    found = [payload for payload, _ in _read(source, notes)]
    return (found[0], None) if found else (None, "; ".join(notes))


def find_recipes(
    drives: Iterable[DvdDrive],
    live_volumes: Iterable[LiveVolume],
    has_recipes: Callable[[Tree], bool],
) -> PayloadSource | None:
    """Find the medium with recipes, in the same order; None where no medium has any.

    Raises AmbiguousError for several.
    """
    for sources in _in_order(drives, live_volumes, []):
        found = [source for source in sources if _fits(source, has_recipes)]
        if len(found) > 1:
            listed = " and ".join(each.name for each in found)
            raise AmbiguousError(f"{listed} both hold recipes; eject one of these DVDs")
        if found:
            return found[0]
    return None


def _fits(source: PayloadSource, test: Callable[[Tree], bool]) -> bool:
    # What cannot be read is said where the payload itself is looked for.
    with contextlib.suppress(RefusedError, OSError), source.open() as tree:
        return test(tree)
    return False


def _in_order(
    drives: Iterable[DvdDrive], live_volumes: Iterable[LiveVolume], notes: list[str]
) -> tuple[list[PayloadSource], list[PayloadSource]]:
    """Give the DVDs, then what the live ISO brings along."""
    dvds = [source for drive in drives for source in _drive_source(drive, notes)]
    own = [*(each for each in dvds if each.is_live_medium), *map(_volume_source, live_volumes)]
    return [each for each in dvds if not each.is_live_medium], own


def _drive_source(drive: DvdDrive, notes: list[str]) -> Iterator[PayloadSource]:
    if drive.has_medium:
        yield PayloadSource(drive.name, Path(drive.device_path), None, drive.is_live_medium)
    else:
        notes.append(f"{drive.name} is empty")


def _volume_source(volume: LiveVolume) -> PayloadSource:
    return PayloadSource(volume.name, Path("/dev", volume.kernel_name), volume.fs_type, True)


def _read(source: PayloadSource, notes: list[str]) -> Iterator[tuple[Payload, PayloadSource]]:
    try:
        with source.open() as tree:
            if source.is_live_medium and find_shim_directory(tree) is None:
                raise RefusedError(
                    f"{source.name} holds the live ISO itself, which carries no payload"
                )
            yield read_payload(tree, source.name), source
    except AmbiguousError:
        raise
    except RefusedError as error:
        notes.append(str(error))
    except OSError as error:
        notes.append(f"{source.name} cannot be read: {error.strerror}; is the ISO complete?")
