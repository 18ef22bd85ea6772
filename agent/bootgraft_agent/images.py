"""What kernels and shims are, read from a tree's files within bounds."""

import os

from bootgraft_agent import multiboot
from bootgraft_agent.files import Tree, read_chunks

MAX_IMAGE = 64 * 1024 * 1024  # bytes of a kernel's or a shim's file


def recognise_file(tree: Tree, path: str) -> tuple[int, multiboot.Image]:
    """Give a file's size, and what it is; one beyond MAX_IMAGE is not read."""
    with tree.open_file(path) as fd:
        size = os.fstat(fd).st_size
        if size > MAX_IMAGE:
            problem = f"it is {size} bytes long; at most {MAX_IMAGE} are expected"
            return size, multiboot.Image("unknown", problem=problem)
        return size, multiboot.recognise_chunks(read_chunks(fd, MAX_IMAGE))
