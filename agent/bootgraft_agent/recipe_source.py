"""Which recipes a run has, and the files that they copy: from the payload, the library, or a file.

The payload has either one /recipe.toml with its files beside it, or a /recipes.toml that lists
recipes of the library and of folders; without both the recipe is `hyperv-shim`.
"""

import functools
import stat
from collections.abc import Iterator

from bootgraft_agent.errors import RefusedError
from bootgraft_agent.files import Tree
from bootgraft_agent.payload import plain_name
from bootgraft_agent.recipe_file.parse import MAX_PAYLOAD, MAX_PAYLOAD_FILES
from bootgraft_agent.world import PayloadRef

MAX_DEPTH = 32  # directories in each other


class PayloadDirectory:
    """The files beside a recipe on the payload; no path leads out of it.

    Names are as the recipe's author wrote them. Where the payload is ISO 9660 without Rock Ridge,
    which shows them in upper case and with `;1`, lower case is taken for upper.
    """

    def __init__(self, tree: Tree, directory: str) -> None:
        self._tree = tree
        self._directory = directory
        self._names: dict[str, dict[str, list[str]]] = {}  # real ones, by directory and plain name
        self._refs: dict[str, PayloadRef] = {}
        self._size = 0

    def kind(self, source: str) -> str | None:
        """Say what a source is: "file", "directory"; None where there is neither.

        Raises RefusedError for a link.
        """
        path = self._find(source)
        return None if path is None else self._kind(path)

    def ref(self, source: str) -> PayloadRef:
        """Give a file to be copied. Raises RefusedError where there is none, or too much in all."""
        path = self._require(source)
        if path not in self._refs:
            self._refs[path] = self._read_ref(path, source)
        return self._refs[path]

    def _read_ref(self, path: str, source: str) -> PayloadRef:
        digest = self._tree.digest(path) if self._kind(path) == "file" else None
        if digest is None:
            raise RefusedError(f"{source} of the payload is no regular file")
        size = self._tree.lstat(path).st_size
        self._size += size
        if self._size > MAX_PAYLOAD or len(self._refs) >= MAX_PAYLOAD_FILES:
            raise RefusedError(
                f"the recipe copies more than {MAX_PAYLOAD_FILES} files or {MAX_PAYLOAD} bytes of"
                " the payload"
            )
        return PayloadRef(path, size, digest)

    def read(self, source: str, limit: int) -> bytes:
        """Read a file of at most `limit` bytes. Raises RefusedError."""
        return self._tree.read(self._require(source), limit)

    def walk(self, source: str) -> Iterator[tuple[str, str]]:
        """Give what is in a directory, below it too: (path within it, "file" or "directory").

        A directory comes before what is in it. Raises RefusedError for links and devices, and for
        more than MAX_PAYLOAD_FILES names.
        """
        todo = [("", self._require(source))]
        count = 0
        while todo:
            inner, path = todo.pop(0)
            for plain in self._list(path):
                name = f"{inner}{plain}"
                found = self._require(f"{source}/{name}")
                kind = self._kind(found)
                count += 1
                if kind is None:
                    raise RefusedError(f"{source}/{name} of the payload is no file or directory")
                if count > MAX_PAYLOAD_FILES or name.count("/") > MAX_DEPTH:
                    raise RefusedError(
                        f"{source} of the payload holds more than {MAX_PAYLOAD_FILES} names, or"
                        f" more than {MAX_DEPTH} directories in each other"
                    )
                yield name, kind
                if kind == "directory":
                    todo.append((f"{name}/", found))

    def _kind(self, path: str) -> str | None:
        mode = self._tree.lstat(path).st_mode
        return "file" if stat.S_ISREG(mode) else "directory" if stat.S_ISDIR(mode) else None

    def _require(self, source: str) -> str:
        path = self._find(source)
        if path is None:
            raise RefusedError(f"the payload has no {source} beside the recipe")
        return path

    def _find(self, source: str) -> str | None:
        """Find a source by its plain name, component by component; links are refused."""
        found = self._directory
        for name in source.split("/"):
            if name in ("", ".", "..") or not self._tree.is_directory(found):
                return None
            listed = self._list(found)
            alike = listed.get(name) or listed.get(name.lower() if self._is_plain else name, [])
            if len(alike) > 1:
                raise RefusedError(f"the payload has {source} twice: {' and '.join(alike)}")
            if not alike:
                return None
            found = f"{found}/{alike[0]}" if found else alike[0]
            if stat.S_ISLNK(self._tree.lstat(found).st_mode):
                raise RefusedError(f"{source} of the payload is a link; put the file itself there")
        return found

    def _list(self, path: str) -> dict[str, list[str]]:
        if path not in self._names:
            named: dict[str, list[str]] = {}
            for name in self._tree.names(path):
                named.setdefault(self._plain(name), []).append(name)
            self._names[path] = named
        return self._names[path]

    def _plain(self, name: str) -> str:
        return plain_name(name).lower() if self._is_plain else name

    @functools.cached_property
    def _is_plain(self) -> bool:
        """Whether names are shown as ISO 9660 alone has them."""
        return any(plain_name(name) != name for name in self._tree.names(self._directory))
