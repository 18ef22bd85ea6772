"""Stands before the agent's own start in the live system, and tells on COM1 when what happened.

Runs in the live system alone, as `__main__` of a package that has the agent's modules, too.
Times are seconds of the kernel's clock, which starts with the kernel.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path


def now() -> float:
    """Give the kernel's time."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


python_is_up = now()
# Field 22 of proc_pid_stat(5), in ticks; 20 follow the command's name.
ticks = int(Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])

from bootgraft_agent import (  # noqa: E402, F401 - what the agent imports before HELLO
    cli,
    live_modes,
)

imported = now()
messages = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
times = {
    "unpacked": r"Freeing initrd memory",
    "init": r"Run /init as init process",
}
found = {
    name: float(match[1])
    for name, text in times.items()
    if (match := re.search(rf"^\[ *(\d+\.\d+)\] {text}", messages, re.MULTILINE))
}
moments = {
    **found,
    "python_started": ticks / os.sysconf("SC_CLK_TCK"),
    "python_is_up": python_is_up,
    "imported": imported,
}
Path("/dev/ttyS0").write_text(
    f"@moments {json.dumps({**moments, 'said': now()})}\n", encoding="ascii"
)
sys.exit(cli.main())
