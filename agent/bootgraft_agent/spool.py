"""The old content of a file, kept here between the openings of two volumes."""

import contextlib
import tempfile
from collections.abc import Iterator
from typing import IO, Self

from bootgraft_agent.files import MAX_DIGEST, Tree, read_chunks

_IN_MEMORY = 256 * 1024  # bytes; more goes to a temporary file, which in the live system is memory
_CHUNK = 256 * 1024


class Spool:
    """Content that was read from one tree and is to be written to another."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    @classmethod
    @contextlib.contextmanager
    def read(cls, tree: Tree, path: str) -> Iterator[Self]:
        """Take a file's content, as long as the `with` statement lasts."""
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as file:
            with tree.open_file(path) as fd:
                for chunk in read_chunks(fd, MAX_DIGEST):
                    file.write(chunk)
            yield cls(file)

    @classmethod
    @contextlib.contextmanager
    def hold(cls, content: bytes) -> Iterator[Self]:
        """Take content that is known."""
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as file:
            file.write(content)
            yield cls(file)

    def chunks(self) -> Iterator[bytes]:
        """Give the content, piece by piece, from its start."""
        self._file.seek(0)
        return iter(lambda: self._file.read(_CHUNK), b"")
