"""Running the programs that make disks and ISOs."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

# A user's PATH does not hold the folder of mkfs and sfdisk, which need no root here.
ENVIRONMENT = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "LC_ALL": "C"}


def run(argv: Sequence[str | Path], *, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program to its end.

    Raises RuntimeError, with all that the program said, when its status is not 0.
    """
    result = subprocess.run(
        argv, input=stdin, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise RuntimeError(
            f"{[str(word) for word in argv]} failed with status {result.returncode}:\n"
            f"{result.stdout}{result.stderr}"
        )
    return result
