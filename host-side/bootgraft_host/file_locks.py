"""A lock on an open file, which goes with the process that holds it, however that ends."""

import sys
from typing import IO

if sys.platform == "win32":  # never tried
    import msvcrt

    # What is locked there cannot even be read by others: so a byte after all content is.
    _LOCKED_BYTE = 1 << 30

    def try_lock(file: IO[bytes]) -> bool:
        """Lock a file; False where another process holds it."""
        file.seek(_LOCKED_BYTE)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def try_lock(file: IO[bytes]) -> bool:
        """Lock a file; False where another process holds it."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
