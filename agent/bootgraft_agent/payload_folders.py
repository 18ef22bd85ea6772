"""A payload that is put together of folders, as a payload ISO would hold them.

::

    /recipes/01-NAME/   the folder of a recipe file that was named, one for each
    /…                  what is on the payload itself, if there is one
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from bootgraft_agent.files import Tree


class PayloadFolders(Tree):
    """A payload's tree in which some paths are folders of their own; no link leads out of one."""

    def __init__(self, root: Path, folders: Mapping[str, Path]) -> None:
        super().__init__(root)
        with contextlib.ExitStack() as stack:
            stack.callback(super().__exit__, None, None, None)
            self._folders = {
                path: stack.enter_context(Tree(folder)) for path, folder in folders.items()
            }
            self._opened = stack.pop_all()

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def resolve(self, path: str, *, follow_last: bool = True) -> str:
        """Give the path without links, as in the folder that it leads into."""
        place, folder, inner = self._place(path)
        if folder is None:
            return super().resolve(path, follow_last=follow_last)
        return f"{place}/{folder.resolve(inner, follow_last=follow_last)}".rstrip("/")

    def lstat(self, path: str) -> os.stat_result:
        """Stat a path without following its last component."""
        _, folder, inner = self._place(path)
        return super().lstat(path) if folder is None else folder.lstat(inner)

    def names(self, path: str) -> list[str]:
        """List a directory, sorted."""
        _, folder, inner = self._place(path)
        return super().names(path) if folder is None else folder.names(inner)

    @contextlib.contextmanager
    def open_file(self, path: str) -> Iterator[int]:
        """Open a regular file for reading."""
        _, folder, inner = self._place(path)
        with super().open_file(path) if folder is None else folder.open_file(inner) as fd:
            yield fd

    def _place(self, path: str) -> tuple[str, Tree | None, str]:
        """Find the folder that a path is in, and where there."""
        for place, folder in self._folders.items():
            if f"{path}/".startswith(f"{place}/"):
                return place, folder, path.removeprefix(place).lstrip("/")
        return "", None, path
