"""The demo: an appliance that cannot boot is grafted by the live ISO, driven from here, and boots.

Ends with status 0 only after the appliance's own userland has printed a token that was made for
this demo, in a boot in which Linux reports that it runs on Xen.
"""

import argparse
import secrets
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from bootgraft_host import cli
from bootgraft_host.machine import Machine
from bootgraft_host.targets import machine_for
from vm.appliance import Appliance, build_appliance
from vm.payload import build_payload

REPOSITORY = Path(__file__).resolve().parents[2]
DIRECTORY = REPOSITORY / "build" / "demo"
ISO = REPOSITORY / "build" / "bootgraft.iso"
ERROR_13 = "Error 13"  # GRUB: Invalid or unsupported executable format
ERROR_TIMEOUT = 60.0  # seconds

VM_TOML = """\
# The demo's machine: a Xen appliance's disk as it came.
name = "demo-appliance"
firmware = "bios"
memory_mib = 512
boot_order = ["disk", "dvd"]

[[disk]]
path = "appliance.vhd"
format = "vpc"
channel = 0
unit = 0

[[dvd]]
channel = 1
unit = 0
iso = ""

[network]
kind = "virtio"
mac = "52:54:00:12:34:56"

[com1]
socket = ""
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; give its exit status."""
    parser = argparse.ArgumentParser(prog="bootgraft demo", description=__doc__)
    parser.add_argument("--iso", type=Path, default=ISO, help="the live ISO")
    parser.add_argument("--directory", type=Path, default=DIRECTORY, help="emptied and filled")
    arguments = parser.parse_args(argv)
    directory: Path = arguments.directory.absolute()

    say("making an appliance for Xen, and a payload ISO with a stand-in shim")
    appliance, payload = prepare(directory)
    vm = directory / "vm.toml"
    say("starting it as it is")
    show_that_it_cannot_boot(vm, directory / "before.png")
    say("grafting it")
    status = cli.main(run_arguments(vm, payload, arguments.iso, appliance, directory))
    if status != 0:
        return status
    return report(vm, directory)


def prepare(directory: Path) -> tuple[Appliance, Path]:
    """Make the appliance, its machine and the payload ISO in a fresh directory."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    appliance = build_appliance(directory, token=secrets.token_hex(8))
    (directory / "vm.toml").write_text(VM_TOML)
    return appliance, build_payload(directory)


def run_arguments(
    vm: Path, payload: Path, iso: Path, appliance: Appliance, directory: Path
) -> list[str]:
    """Give the arguments of the run, as a user would type them."""
    return [
        *("run", str(vm), "--payload", str(payload), "--iso", str(iso)),
        *("--expect", appliance.expect, "--state-dir", str(directory / "state")),
    ]


def show_that_it_cannot_boot(vm: Path, picture: Path) -> None:
    """Boot the machine before the graft, up to GRUB's Error 13. Raises TimeoutError."""
    with closing(machine_for(str(vm))) as machine:
        machine.start()
        try:
            wait_for_screen(machine, ERROR_13)
            machine.take_screenshot(picture)
        finally:
            machine.turn_off()
    say(f"it stops at GRUB's {ERROR_13}: {picture}")


def wait_for_screen(machine: Machine, text: str) -> None:
    """Wait until the machine's screen has a text. Raises TimeoutError."""
    deadline = time.monotonic() + ERROR_TIMEOUT
    while text not in (machine.read_screen_text() or ""):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {text!r} on the screen within {ERROR_TIMEOUT:.0f} s")
        time.sleep(0.5)


def report(vm: Path, directory: Path) -> int:
    """Say what is there to look at, and check that the machine came back as it was."""
    if vm.read_text() != VM_TOML.replace('kind = "virtio"', 'kind = "legacy"'):
        say(f"{vm} is not as it was, apart from the network adapter")
        return 1
    say(f"{vm.name} is as it was, apart from its network adapter, which is a legacy one now")
    for picture in sorted(directory.rglob("*.png")):
        say(f"picture: {picture}")
    return 0


def say(text: str) -> None:
    """Print one line of the demo."""
    sys.stdout.write(f"demo: {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
