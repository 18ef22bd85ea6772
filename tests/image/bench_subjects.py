"""What the bench measures: the live ISO at each of its works, and others at the same."""

import json
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bootgraft_agent.errors import BootgraftError
from bootgraft_host.customise import BootChanges, customise_iso
from image.bench_costs import Cost, children_seconds, first_line, hash_file, say
from image.live_boot import (
    REPOSITORY,
    boot_live,
    conversation,
    ide_dvd,
    make_iso_with_agent,
    uefi,
)
from vm.appliance import build_appliance
from vm.boots import Boot, BootTimeoutError
from vm.commands import run
from vm.payload import SHIM, build_payload, good_files

START_TIMEOUT = 180.0  # seconds
# For a machine that may have too little memory: times what a graft takes with enough.
PATIENCE = 2.5
REQUEST_TIMEOUT = 180.0
ENOUGH = 512  # MiB
MEMORY_STEP = 16  # MiB
START_CLOCK = Path(__file__).with_name("start_clock.py").read_bytes()
# The agent's modules, after the one that stands before them.
BESIDE_THE_AGENT = b"""\
__version__ = "bench"
__path__.append("/early/usr/lib/python3/dist-packages/bootgraft_agent")
"""


class Subjects:
    """The demo appliance, a payload, and the ISO, in a scratch folder."""

    def __init__(self, iso: Path, folder: Path) -> None:
        self.iso = iso
        self.folder = folder
        self.com1 = folder / "com1"
        self.appliance = build_appliance(folder, token=secrets.token_hex(8)).disk
        self.payload = build_payload(folder)
        self.raw = folder / "raw.img"
        run(["qemu-img", "convert", "-f", "vpc", "-O", "raw", self.appliance, self.raw])
        self.unpacked = folder / "payload"
        run(["xorriso", "-osirrox", "on", "-indev", self.payload, "-extract", "/", self.unpacked])
        run(["chmod", "-R", "u+w", self.unpacked])
        self.shim = folder / Path(SHIM).name
        self.shim.write_bytes(good_files()[SHIM])

    # The live system

    def start_by_bios(self) -> Cost:
        """Power-on to HELLO."""
        return self._await_hello(boot_live(self.iso, [], ENOUGH))

    def start_by_secure_boot(self) -> Cost:
        """Power-on to HELLO, with UEFI firmware that checks every signature."""
        dvd = f"if=none,id=dvd,file={self.iso},format=raw,readonly=on"
        arguments = [
            *uefi(self.folder, secure_boot=True),
            *("-drive", dvd, "-device", "ide-cd,drive=dvd,bus=ide.2"),
        ]
        return self._await_hello(Boot(arguments, ENOUGH))

    def _await_hello(self, boot: Boot) -> Cost:
        start = time.monotonic()
        with boot:
            boot.wait_for_console("@bg1 ", START_TIMEOUT)
            return Cost(time.monotonic() - start, boot.cpu_seconds())

    def show_console(self) -> Cost:
        """HELLO to the first screen of the manual console; both come by themselves."""
        iso = self.folder / "manual.iso"
        if not iso.exists():
            customise_iso(self.iso, iso, BootChanges(menu_time=0, mode="manual"))
        with boot_live(iso, [], ENOUGH) as boot:
            boot.wait_for_console("@bg1 ", START_TIMEOUT)
            start, spent = time.monotonic(), boot.cpu_seconds()
            boot.wait_for_screen("^ bootgraft   Looking at this machine's disks", START_TIMEOUT)
            return Cost(time.monotonic() - start, boot.cpu_seconds() - spent)

    def graft(
        self, firmware: Sequence[str] = (), memory_mib: int = ENOUGH, timeout: float = START_TIMEOUT
    ) -> Cost:
        """Power-on to power-off: the demo appliance grafted, driven from here."""
        disk = self._copy(self.appliance)
        arguments = [*firmware, *self._graft_devices(disk)]
        before, start = children_seconds(), time.monotonic()
        with Boot(arguments, memory_mib, com1=self.com1) as boot:
            with conversation(boot, self.com1, timeout=timeout, silence=timeout) as client:
                client.request("inspect", {}, REQUEST_TIMEOUT)
                plan = client.request("plan", {}, REQUEST_TIMEOUT)
                shown = {"plan_sha256": plan["plan_sha256"], "run_id": "bench"}
                client.request("apply", shown, REQUEST_TIMEOUT)
                client.request("power_off", {}, REQUEST_TIMEOUT)
            boot.wait_off(30.0)
            wall = time.monotonic() - start
        return Cost(wall, children_seconds() - before)

    def _graft_devices(self, disk: Path) -> list[str]:
        return [
            *("-drive", f"if=none,id=guest,file={disk},format=vpc"),
            *("-device", "ide-hd,drive=guest,bus=ide.0,unit=0"),
            *ide_dvd(self.iso, 2, "bootindex=1"),
            *ide_dvd(self.payload, 3),
        ]

    def _copy(self, disk: Path) -> Path:
        copy = self.folder / f"copy{disk.suffix}"
        shutil.copyfile(disk, copy)
        return copy

    def find_lowest_memory(
        self, firmware: Callable[[], Sequence[str]], first: int
    ) -> tuple[float | None, str]:
        """Find the lowest memory, in MiB, at which a graft succeeds; `first` may be too low.

        Gives None, and why, where even a machine with enough memory fails.
        """
        try:
            usual = self.graft(firmware(), ENOUGH).wall
        except (BootgraftError, BootTimeoutError) as error:
            return None, f"with {ENOUGH} MiB: {first_line(error)}"
        memory = first
        while memory < ENOUGH and not self._grafts_with(memory, firmware(), usual):
            memory += MEMORY_STEP
        if memory > first:
            return memory, f"{memory - MEMORY_STEP} failed"
        while self._grafts_with(memory - MEMORY_STEP, firmware(), usual):
            memory -= MEMORY_STEP
        return memory, f"{memory - MEMORY_STEP} failed"

    def _grafts_with(self, memory_mib: int, firmware: Sequence[str], usual: float) -> bool:
        try:
            cost = self.graft(firmware, memory_mib, PATIENCE * usual)
        except (BootgraftError, BootTimeoutError) as error:
            say(f"a graft with {memory_mib} MiB failed: {first_line(error)}")
            return False
        say(f"a graft with {memory_mib} MiB succeeded: {cost.wall:.1f} s")
        return True

    def plain_uefi(self) -> list[str]:
        """Give the arguments for UEFI on a machine with IDE, which a graft needs."""
        return ["-M", "pc", *uefi(self.folder, secure_boot=False)[2:]]

    def read_moments(self) -> Mapping[str, float]:
        """Give the seconds from power-on to each moment of a start by BIOS."""
        changed = make_iso_with_agent(self.iso, START_CLOCK, self.folder, package=BESIDE_THE_AGENT)
        start = time.monotonic()
        with boot_live(changed, [], ENOUGH, com1=self.com1) as boot:
            boot.wait_for_screen("ISOLINUX", START_TIMEOUT)
            loader = time.monotonic() - start
            said = boot.wait_for_console(r"^@moments (\{.*\})\r?\n", START_TIMEOUT)
            kernel_start = time.monotonic() - start - json.loads(said[1])["said"]
            with conversation(boot, self.com1, timeout=START_TIMEOUT, silence=60) as client:
                hello = time.monotonic() - start
                client.request("inspect", {}, REQUEST_TIMEOUT)
                inspected = time.monotonic() - start
        moments = {
            name: kernel_start + value
            for name, value in json.loads(said[1]).items()
            if name != "said"
        }
        return {
            "firmware": loader,
            "boot loader, unpacking the kernel": kernel_start,
            "kernel, unpacking the initramfs": moments["init"],
            "init": moments["python_started"],
            "Python": moments["python_is_up"],
            "imports": moments["imported"],
            "HELLO": hello,
            "the rest, drivers, udev; inspect": inspected,
        }

    # Others

    def launch_guestfish(self) -> Cost:
        """Start guestfish's appliance, and do nothing."""
        return self._spend(["guestfish", "-a", self._copy(self.appliance), "run"])

    def edit_by_guestfish(self) -> Cost:
        """Upload the shim, edit the two texts."""
        disk = self._copy(self.appliance)
        script = "\n".join(
            [
                *("run", "mount /dev/sda1 /", "download /grub/grub.conf /dev/null"),
                f"upload {self.shim} /{self.shim.name}",
                *(f"upload {text} /grub/{text.name}" for text in self._texts()),
                "umount-all",
            ]
        )
        return self._spend(["guestfish", "--rw", "-a", disk], stdin=script)

    def edit_by_virt_customize(self) -> Cost:
        """Do the same with virt-customize, which finds the guest's file systems by itself."""
        disk = self._copy(self.appliance)
        uploads = [f"{self.shim}:/boot/{self.shim.name}"]
        uploads += [f"{text}:/boot/grub/{text.name}" for text in self._texts()]
        options = [word for upload in uploads for word in ("--upload", upload)]
        return self._spend(["virt-customize", "--no-network", "-a", disk, *options])

    def _texts(self) -> list[Path]:
        texts = [self.folder / name for name in ("device.map", "grub.conf")]
        for text in texts:
            text.write_text("as it would be\n")
        return texts

    def graft_by_tree_mode(self) -> Cost:
        """Mount the disk's partitions here, boot and root, and graft.

        The payload is unpacked before: not every kernel mounts an ISO.
        """
        disk = self._copy(self.raw)
        table = json.loads(run(["sfdisk", "--json", disk]).stdout)["partitiontable"]
        boot, root = (part["start"] * 512 for part in table["partitions"][:2])
        agent = Path(sys.executable).with_name("bootgraft-agent")
        script = f"""
            set -e
            mkdir -p root
            trap 'umount root/boot; umount root' EXIT
            mount -o loop,offset={root} {disk} root
            mount -o loop,offset={boot},sizelimit=$(({root} - {boot})) {disk} root/boot
            {agent} tree --root root --boot root/boot --payload {self.unpacked}
        """
        return self._spend(["sh", "-c", script])

    def _spend(self, argv: Sequence[str | Path], *, stdin: str = "") -> Cost:
        """Run a command; raises OSError where it is not there, RuntimeError where it fails."""
        before, start = children_seconds(), time.monotonic()
        result = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, cwd=self.folder, check=False
        )
        cost = Cost(time.monotonic() - start, children_seconds() - before)
        if result.returncode != 0:
            said = (result.stderr or result.stdout).strip().splitlines()
            raise RuntimeError(f"{argv[0]}: {said[0] if said else f'status {result.returncode}'}")
        return cost

    # The ISO

    def read_parts(self) -> Mapping[str, int]:
        """Give the sizes of the ISO's parts, in bytes."""
        listing = run(["xorriso", "-indev", self.iso, "-find", "/", "-type", "f", "-exec", "lsdl"])
        found = re.findall(r"^-\S+ +\d+ +\S+ +\S+ +(\d+) .* '(.*)'$", listing.stdout, re.MULTILINE)
        parts = {path: int(size) for size, path in found}
        return {
            **parts,
            "ISO 9660 itself, El Torito, GPT": self.iso.stat().st_size - sum(parts.values()),
        }

    def build_again(self) -> tuple[float, bool]:
        """Build it elsewhere, packages cached; give the seconds, and whether it is the same."""
        other = self.folder / "other"
        for name in ("image-build", "agent"):
            shutil.copytree(REPOSITORY / name, other / name)
        work = other / "build/image-work"
        work.mkdir(parents=True)
        run(["cp", "-a", REPOSITORY / "build/image-work/cache", work])
        start = time.monotonic()
        run([other / "image-build/build.sh"])
        seconds = time.monotonic() - start
        return seconds, hash_file(other / "build/bootgraft.iso") == hash_file(self.iso)
