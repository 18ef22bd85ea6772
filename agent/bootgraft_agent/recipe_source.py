"""Which recipes a run has, and the files that they copy: from the payload, the library, or a file.

The payload has either one /recipe.toml with its files beside it, or a /recipes.toml that lists
recipes of the library and of folders; without both the recipe is `hyperv-shim`.
"""

from collections.abc import Iterator

from bootgraft_agent.errors import RefusedError
from bootgraft_agent.files import Tree
from bootgraft_agent.payload import plain_name
from bootgraft_agent.world import PayloadRef

MAX_FILES = 10_000  # of all recipes of a payload
MAX_SIZE = 512 * 1024 * 1024  # bytes of all of them


class PayloadDirectory:
    """The files beside a recipe on the payload; no path leads out of it.

    Names are as the recipe's author wrote them, even where ISO 9660 without Rock Ridge shows them
    in upper case and with `;1`.
    """

    def __init__(self, tree: Tree, directory: str) -> None:
        self._tree = tree
        self._directory = directory

    def kind(self, source: str) -> str | None:
        """Say what a source is: "file", "directory"; None where there is neither."""
        path = self._find(source)
        if path is None:
            return None
        if self._tree.is_file(path):
            return "file"
        return "directory" if self._tree.is_directory(path) else None

    def ref(self, source: str) -> PayloadRef:
        """Give a file to be copied. Raises RefusedError where there is none."""
        path = self._require(source)
        digest = self._tree.digest(path)
        if digest is None:
            raise RefusedError(f"the payload has no file {source}")
        return PayloadRef(path, self._tree.lstat(path).st_size, digest)

    def read(self, source: str, limit: int) -> bytes:
        """Read a file of at most `limit` bytes. Raises RefusedError."""
        return self._tree.read(self._require(source), limit)

    def walk(self, source: str) -> Iterator[tuple[str, str]]:
        """Give what is in a directory, below it too: (path within it, "file" or "directory").

        A directory comes before what is in it. Raises RefusedError for links and devices.
        """
        raise NotImplementedError

    def _require(self, source: str) -> str:
        path = self._find(source)
        if path is None:
            raise RefusedError(f"the payload has no {source} beside the recipe")
        return path

    def _find(self, source: str) -> str | None:
        """Find a source by its plain name, component by component; links are not followed."""
        found = self._directory
        for name in source.split("/"):
            if name in ("", ".", "..") or not self._tree.is_directory(found):
                return None
            names = self._tree.names(found)
            exact = [each for each in names if each == name]
            alike = exact or [each for each in names if plain_name(each) == plain_name(name)]
            if len(alike) != 1:
                return None
            found = f"{found}/{alike[0]}" if found else alike[0]
            if self._tree.resolve(found) != found:
                raise RefusedError(f"{source} of the payload is a link; put the file itself there")
        return found
