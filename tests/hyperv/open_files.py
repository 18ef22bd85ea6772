"""Which files of the modelled host are open, and what others may do with them meanwhile."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from hyperv.net_object import NetError


@dataclass(frozen=True, eq=False)
class Handle:
    """An open file: what its holder does with it, and what it lets others do."""

    real: Path
    access: frozenset[str]  # of Read, Write, Delete
    share: frozenset[str]


class OpenFiles:
    """The handles of all processes. `held` gives those of running machines: their ISOs."""

    def __init__(self, held: Callable[[], Iterable[Path]]) -> None:
        self._handles: list[Handle] = []
        self._held = held

    def open(self, real: Path, access: Iterable[str], share: Iterable[str]) -> Handle:
        """Open a file, or fail with a sharing violation."""
        wanted = Handle(real, frozenset(access), frozenset(share))
        for other in self._others(real):
            if not (wanted.access <= other.share and other.access <= wanted.share):
                raise sharing_violation()
        self._handles.append(wanted)
        return wanted

    def close(self, handle: Handle) -> None:
        """Close a handle; a second time does nothing."""
        if handle in self._handles:
            self._handles.remove(handle)

    def require_deletable(self, real: Path) -> None:
        """Fail where somebody has the file open and does not let it be deleted or renamed."""
        for other in self._others(real):
            if "Delete" not in other.share:
                raise sharing_violation()

    def close_all(self) -> None:
        """Forget all handles, as the host's end does."""
        self._handles.clear()

    def _others(self, real: Path) -> list[Handle]:
        of_machines = [
            Handle(real, frozenset({"Read"}), frozenset({"Read"}))
            for path in self._held()
            if path == real
        ]
        return [*(each for each in self._handles if each.real == real), *of_machines]


def sharing_violation() -> NetError:
    """ERROR_SHARING_VIOLATION, as .NET says it."""
    return NetError(
        "IOException",
        "The process cannot access the file because it is being used by another process.",
    )
