"""Whether KVM really works here: a guest that runs on it says so.

/dev/kvm may be there and open well, and yet a guest on it may hang or crash, as on a virtual
machine with half a nested virtualisation. So a boot sector runs once per boot of the host.
"""

import contextlib
import logging
import os
import subprocess
import tempfile
from pathlib import Path

from bootgraft_host.qemu_command import PROGRAM, cpu_options
from bootgraft_host.qemu_process import runtime_root

KVM = "kvm"
EMULATION = "tcg,thread=multi"
PROBE_TIMEOUT = 5.0  # seconds; with a working KVM it takes less than one

_KVM_DEVICE = Path("/dev/kvm")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_ANSWER = 0x2A  # any number that QEMU would not end with by itself
# isa-debug-exit ends QEMU with the number written to its port, times two, plus one.
_EXIT_STATUS = _ANSWER * 2 + 1
_BOOT_SECTOR = (
    bytes((0xB0, _ANSWER))  # mov al, _ANSWER
    + bytes((0xE6, 0xF4))  # out 0xf4, al
    + bytes((0xFA, 0xF4))  # cli; hlt
).ljust(510, b"\0") + b"\x55\xaa"

_LOGGER = logging.getLogger(__name__)


def choose_accelerator() -> str:
    """Return the value of QEMU's -accel: KVM where it works, emulation elsewhere."""
    if not os.access(_KVM_DEVICE, os.R_OK | os.W_OK):
        return EMULATION
    accelerator = ""
    with contextlib.suppress(OSError, RuntimeError):
        accelerator = _cache_file().read_text()
    if accelerator not in {KVM, EMULATION}:
        accelerator = KVM if runs_guests(KVM) else EMULATION
        with contextlib.suppress(OSError, RuntimeError):  # then it is asked again the next time
            _cache_file().parent.mkdir(parents=True, exist_ok=True)
            _cache_file().write_text(accelerator)
    return accelerator


def _cache_file() -> Path:
    """Name the file that keeps the answer. Raises RuntimeError for a user without a home."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "bootgraft" / f"accelerator-{_BOOT_ID.read_text().strip()}"


def runs_guests(accelerator: str) -> bool:
    """Whether a guest boots with this accelerator: it gets PROBE_TIMEOUT to say so."""
    with tempfile.TemporaryDirectory(dir=runtime_root()) as folder:
        image = Path(folder) / "probe.img"
        image.write_bytes(_BOOT_SECTOR)
        command = _build_probe_command(accelerator, image)
        try:
            result = subprocess.run(
                command, capture_output=True, check=False, timeout=PROBE_TIMEOUT
            )
        except subprocess.TimeoutExpired:
            _LOGGER.info("%s does not run a guest: no answer in %g s", accelerator, PROBE_TIMEOUT)
            return False
    works = result.returncode == _EXIT_STATUS
    if not works:
        words = result.stderr.decode(errors="replace").strip()
        _LOGGER.info("%s does not run a guest: %d, %s", accelerator, result.returncode, words)
    return works


def _build_probe_command(accelerator: str, image: Path) -> list[str]:
    return [
        PROGRAM,
        *("-machine", "pc"),
        *("-accel", accelerator),
        *cpu_options(accelerator),
        *("-m", "16"),
        *("-no-user-config", "-nodefaults", "-no-reboot"),
        *("-display", "none"),
        *("-blockdev", f"driver=file,node-name=probe,filename={image}"),
        *("-device", "ide-hd,drive=probe,bootindex=0"),
        *("-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
    ]
