"""A machine's claim: one controller at a time on this computer, as long as its process lives."""

import contextlib
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bootgraft_agent.errors import RefusedError
from bootgraft_host.file_locks import try_lock


@contextlib.contextmanager
def claim_name(machine_id: str, name: str) -> Iterator[None]:
    """Hold a name that goes with our process. Raises RefusedError where another one has it."""
    with contextlib.ExitStack() as claim:
        if not _take(f"bootgraft-{machine_id}", claim):
            raise RefusedError(f"another controller is at work on {name}; wait for its end")
        yield


def _take(key: str, claim: contextlib.ExitStack) -> bool:
    if sys.platform == "win32":  # never tried
        path = Path(tempfile.gettempdir(), f"{key}.lock")
        return try_lock(claim.enter_context(path.open("ab")))
    holder = claim.enter_context(socket.socket(socket.AF_UNIX))
    try:
        holder.bind(f"\0{key}")
    except OSError:
        return False
    return True
