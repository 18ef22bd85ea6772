"""What is needed on Windows, where hyperv://./VM is; nothing of it was tried there."""

import subprocess
import sys
from pathlib import Path

# The libraries know Windows by themselves; ours must do without what only Unix has.
IMPORT = """
import ctypes, logging.handlers, os, socket, subprocess, sys, tempfile, types
import click, PIL.Image, pypsrp.powershell, rich.progress, serial, serial.tools
from pathlib import Path
sys.modules["msvcrt"] = types.ModuleType("msvcrt")
for name in ("fcntl", "grp", "pwd", "resource", "termios", "qemu.qmp"):
    sys.modules[name] = None
for name in ("O_CLOEXEC", "O_DIRECTORY", "getuid", "pidfd_open", "pread", "pwrite"):
    delattr(os, name)
subprocess.CREATE_NEW_PROCESS_GROUP = subprocess.CREATE_NO_WINDOW = 0
sys.platform = "win32"
import bootgraft_host.cli, bootgraft_host.hyperv.machine
from bootgraft_host.runs import write_durably
write_durably(Path("file"), b"content")
print(Path("file").read_bytes())
"""


def test_the_controller_does_without_what_only_unix_has(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", IMPORT],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout == "b'content'\n", result.stderr
