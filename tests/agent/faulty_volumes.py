"""A guest's volumes as plain directories whose n-th change fails, or ends the program."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bootgraft_agent.files import Tree, WritableTree
from bootgraft_agent.plan import Where

NAMES = {"boot": "hda1", "root": "hda2", "var": "hda3"}
CHANGES = (
    *("make_directory", "write_temporary", "rename", "try_link", "remove", "remove_directory"),
    *("move", "make_temporary_link", "make_temporary_directory", "set_directory_attributes"),
)


class PowerCutError(BaseException):
    """The machine is gone; nothing of ours runs any more."""


class CountingTree(WritableTree):
    """A tree whose n-th change fails, instead of being made."""

    on_change: Callable[[], None]


def _counted(name: str) -> Callable[..., object]:
    original = getattr(WritableTree, name)

    def method(self: CountingTree, *args: object, **kwargs: object) -> object:
        self.on_change()
        return original(self, *args, **kwargs)

    return method


for _name in CHANGES:
    setattr(CountingTree, _name, _counted(_name))


class Volumes:
    """The volumes of a guest as plain directories, with a fault at the n-th change."""

    boot_prefix = ""
    absent: tuple[tuple[str, str], ...] = ()

    def __init__(self, base: Path, fault: BaseException | None = None, at: int = -1) -> None:
        self.base = base
        self.changes = 0
        self.openings: list[tuple[str, list[str]]] = []
        self._fault = fault
        self._at = at
        self._open: list[Where] = []

    @property
    def mounts(self) -> tuple[tuple[str, Where], ...]:
        others = (("boot", "boot"), ("var", "var"))
        return (("", "root"), *(each for each in others if (self.base / each[1]).is_dir()))

    @property
    def uuids(self) -> dict[str, str]:
        return {}

    def read(self, where: Where) -> Tree:
        assert not self._open, f"{where} is opened beside {self._open}"
        return Tree(self.base / where)

    @contextmanager
    def write(self, where: Where) -> Iterator[WritableTree]:
        assert not self._open, f"{where} is opened beside {self._open}"
        names: list[str] = []
        self.openings.append((where, names))
        self._open.append(where)
        try:
            with CountingTree(self.base / where) as tree:
                tree.on_change = self._count
                yield tree
        finally:
            self._open.remove(where)

    def _count(self) -> None:
        self.changes += 1
        if self._fault is not None and self.changes == self._at:
            raise self._fault

    def payload(self) -> Tree:
        return Tree(self.base / "payload")

    def name(self, where: Where) -> str:
        return NAMES[where]


def count_changes(base: Path, work: Callable[[Volumes], object]) -> int:
    """Give how many changes something makes."""
    volumes = Volumes(base)
    work(volumes)
    return volumes.changes


def silent(text: str, done: int, total: int) -> None:
    """Take progress, which must say something."""
    assert text
    assert 0 <= done <= total
