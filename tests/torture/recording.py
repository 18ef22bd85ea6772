"""Real grafts and rollbacks in QEMU, every write to the guest's disk recorded in order."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bootgraft_agent.errors import BootgraftError
from bootgraft_host.client import Client
from image.live_boot import boot_live, conversation, ide_dvd, make_iso_beside_agent
from torture.small_appliance import OFFSETS, SIZE
from vm.boots import Boot
from vm.commands import run
from vm.write_log import Entry, Replay, Write, count_entries, read_log

HELLO_TIMEOUT = 240.0  # seconds; 20 on an idle machine
REQUEST_TIMEOUT = 240.0
SILENCE = 120.0
POWER_OFF_TIMEOUT = 60.0
SERVE_TIMEOUT = 20.0


@dataclass(frozen=True, slots=True)
class Recording:
    """The disk before everything, and what was then written to it."""

    disk: Path
    looking: tuple[Entry, ...]
    graft: tuple[Entry, ...]
    rollback: tuple[Entry, ...]
    problem: str | None = None  # why there was no rollback


class AgentFailedError(AssertionError):
    """The agent, in a process of its own, did not end well; the message has its words."""


# In the live system, beside the agent: whatever the agent has looked at is then written to.
_TEMPTER = b"""\
import glob, os, sys, threading, time

__version__ = "tempted"
__path__.append("/early/usr/lib/python3/dist-packages/bootgraft_agent")

def tempt(look):
    def tempted(*arguments):
        try:
            return look(*arguments)
        finally:
            for path in glob.glob("/dev/sd?"):
                try:
                    disk = os.open(path, os.O_WRONLY | os.O_SYNC)
                    os.pwrite(disk, b"written!" * 64, 62 * 512)
                    os.close(disk)
                except OSError:
                    pass
    return tempted

def wait():
    while not hasattr(sys.modules.get("bootgraft_agent.live"), "LiveActions"):
        time.sleep(0.05)
    actions = sys.modules["bootgraft_agent.live"].LiveActions
    actions.inspect, actions.plan = tempt(actions.inspect), tempt(actions.plan)

threading.Thread(target=wait, daemon=True).start()
"""


def make_tempted_iso(iso: Path, folder: Path) -> Path:
    """Make an ISO in whose live system something writes to each disk once the agent has looked.

    The kernel must refuse that: a disk is read-only until a graft is accepted.
    """
    return make_iso_beside_agent(iso, _TEMPTER, folder, "tempted.iso")


@contextlib.contextmanager
def live_system(
    iso: Path,
    payload: Path,
    guest_drive: list[str],
    on_start: Callable[[Boot], None] = lambda _: None,
) -> Iterator[tuple[Boot, Client]]:
    """Boot the live ISO beside a guest's disk and talk with its agent.

    `guest_drive` are QEMU's arguments that make the node "guest"; `on_start` is called when the
    machine is on.
    """
    with tempfile.TemporaryDirectory(prefix="bg") as folder:
        com1 = Path(folder, "com1")
        arguments = [
            *ide_dvd(payload, 3),
            *guest_drive,
            *("-device", "ide-hd,drive=guest,bus=ide.0,unit=0"),
        ]
        with boot_live(iso, arguments, com1=com1) as boot:
            on_start(boot)
            with conversation(boot, com1, timeout=HELLO_TIMEOUT, silence=SILENCE) as client:
                yield boot, client


def raw_drive(disk: Path) -> list[str]:
    """Give QEMU's arguments for a disk as it is."""
    file = {"driver": "file", "filename": str(disk)}
    return ["-blockdev", json.dumps({"driver": "raw", "node-name": "guest", "file": file})]


def logged_drive(disk: Path, log: Path) -> list[str]:
    """Give QEMU's arguments for a disk whose writes are logged."""
    log.write_bytes(b"")
    return ["-blockdev", _logging_node(disk, log)]


def _logging_node(disk: Path, log: Path) -> str:
    """Describe the node "guest": a disk whose writes are logged."""
    return json.dumps(
        {
            "driver": "blklogwrites",
            "node-name": "guest",
            "file": {"driver": "raw", "file": {"driver": "file", "filename": str(disk)}},
            "log": {"driver": "raw", "file": {"driver": "file", "filename": str(log)}},
        }
    )


def graft(client: Client, run_id: str) -> dict[str, Any]:
    """Plan, and apply the plan; an empty object where there is nothing to do."""
    plan = client.request("plan", {}, REQUEST_TIMEOUT)
    if plan["already_grafted"]:
        return {}
    options = {"plan_sha256": plan["plan_sha256"], "run_id": run_id}
    return dict(client.request("apply", options, REQUEST_TIMEOUT))


def power_off(boot: Boot, client: Client) -> None:
    """Have the live system turn itself off."""
    client.request("power_off", {}, REQUEST_TIMEOUT)
    boot.wait_off(POWER_OFF_TIMEOUT)


def record(iso: Path, payload: Path, disk: Path, scratch: Path) -> Recording:
    """Graft a disk and roll the graft back, in one boot of the live system; the disk stays."""
    copy, log = scratch / "recorded.raw", scratch / "writes.log"
    shutil.copyfile(disk, copy)
    with live_system(iso, payload, logged_drive(copy, log)) as (boot, client):
        client.request("inspect", {}, REQUEST_TIMEOUT)
        client.request("plan", {}, REQUEST_TIMEOUT)
        looked = count_entries(log)
        graft(client, "recorded")
        grafted = count_entries(log)
        problem = _problem_of(lambda: client.request("rollback", {}, REQUEST_TIMEOUT))
        power_off(boot, client)
    entries = read_log(log)
    copy.unlink()
    log.unlink()
    return Recording(disk, entries[:looked], entries[looked:grafted], entries[grafted:], problem)


def _problem_of(roll_back: Callable[[], object]) -> str | None:
    """Roll back; say why that failed. What the graft wrote is worth a look all the same."""
    try:
        roll_back()
    except (BootgraftError, AssertionError) as error:
        return str(error)
    return None


def record_tree_mode(agent: Path, payload: Path, disk: Path, scratch: Path) -> Recording:
    """Graft a disk in tree mode here, by the agent of a source tree, and roll the graft back.

    This machine's kernel writes, through a loop device, to a file that QEMU's storage daemon
    serves and logs. Needs root. `payload` is a folder.
    """
    log = scratch / "writes.log"
    with _logged_file(disk, log, scratch) as file, mounted_volumes(file) as (boot, root):
        argv: list[str | Path] = [
            *(sys.executable, "-m", "bootgraft_agent", "tree"),
            *("--root", root, "--boot", boot, "--payload", payload),
        ]
        run_agent(agent, [*argv, "--dry-run"])
        looked = count_entries(log)
        run_agent(agent, argv)
        grafted = count_entries(log)
        problem = _problem_of(lambda: run_agent(agent, [*argv, "--rollback"]))
    entries = read_log(log)
    log.unlink()
    mounted = scratch / "mounted.raw"  # as the two mounts left it
    shutil.copyfile(disk, mounted)
    with contextlib.closing(Replay(mounted)) as replay:
        replay.write(entry for entry in entries[:looked] if isinstance(entry, Write))
    return Recording(mounted, (), entries[looked:grafted], entries[grafted:], problem)


def run_agent(agent: Path, argv: Sequence[str | Path]) -> None:
    """Run the agent of a source tree ("agent/" of this one), which must succeed."""
    environment = {**os.environ, "PYTHONPATH": str(agent)}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AgentFailedError(
            f"the agent ended with {done.returncode}: {done.stdout}{done.stderr}"
        )


@contextlib.contextmanager
def _logged_file(disk: Path, log: Path, scratch: Path) -> Iterator[Path]:
    """Serve a copy of a disk as a file whose writes are logged."""
    copy, served = scratch / "recorded.raw", scratch / "served"
    shutil.copyfile(disk, copy)
    log.write_bytes(b"")
    served.write_bytes(b"")
    argv: list[str | Path] = [
        *("setpriv", "--pdeathsig", "KILL", "--", "qemu-storage-daemon"),
        *("--blockdev", _logging_node(copy, log)),
        *("--export", f"fuse,id=guest,node-name=guest,mountpoint={served},writable=on"),
    ]
    with subprocess.Popen(argv) as daemon:
        try:
            deadline = time.monotonic() + SERVE_TIMEOUT
            while served.stat().st_size == 0:
                if daemon.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"QEMU's storage daemon does not serve {served}")
                time.sleep(0.05)
            yield served
        finally:
            daemon.terminate()
            daemon.wait(SERVE_TIMEOUT)
    copy.unlink()
    served.unlink()


@contextlib.contextmanager
def mounted_volumes(image: Path) -> Iterator[tuple[Path, Path]]:
    """Mount both file systems of the small appliance's disk, boot and root; needs root."""
    with tempfile.TemporaryDirectory(prefix="bg-mnt-") as folder, contextlib.ExitStack() as stack:
        places = Path(folder, "boot"), Path(folder, "root")
        for place, offset in zip(places, OFFSETS, strict=True):
            place.mkdir()
            options = f"loop,offset={offset},sizelimit={SIZE},nosuid,nodev,noexec"
            run(["mount", "-o", options, image, place])
            stack.callback(run, ["umount", place])
        yield places
