"""Machines on a Hyper-V host, by its scripts; see machine.Machine.

A machine is known by its Id, so that another name, or another machine of its name, changes nothing.
Whatever is read of it is read anew each time: others work on the host, too.
"""

import ntpath
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from bootgraft_host.hyperv.apply import (
    HeldError,
    make_changes,
    remove_mark,
    require_mark,
    require_no_other,
    take_mark,
)
from bootgraft_host.hyperv.captured import Captured, capture_description, parse_captured
from bootgraft_host.hyperv.changes import (
    Changes,
    Ours,
    hardware_of,
    plan_changes,
    same_path,
    wanted_after,
    wanted_for_live,
    wanted_for_watch,
)
from bootgraft_host.hyperv.claim import claim_name
from bootgraft_host.hyperv.description import VmDescription
from bootgraft_host.hyperv.host_files import find_iso_problem
from bootgraft_host.hyperv.hosts import open_runner, read_settings
from bootgraft_host.hyperv.marks import (
    Mark,
    find_foreign_mark,
    find_marks,
    find_own_mark,
    own_name,
)
from bootgraft_host.hyperv.media_out import take_media_out
from bootgraft_host.hyperv.pipe_names import PIPE_FOLDER, pipe_url, relay_url
from bootgraft_host.hyperv.preflight import (
    Facts,
    explain_mark,
    find_local_problem,
    find_path_problem,
    find_problems,
    find_remarks,
    for_machine,
    is_own_pipe,
)
from bootgraft_host.hyperv.runner import Runner, ScriptError, UnreachableError
from bootgraft_host.hyperv.targets import SCHEME, find_vm, parse_target
from bootgraft_host.hyperv.thumbnail import take_thumbnail
from bootgraft_host.hyperv.upload import (
    UploadedIso,
    remove_uploads,
    upload_isos,
    verify_again,
)
from bootgraft_host.hyperv.vm import (
    OFF,
    POLL_INTERVAL,
    PowerWatch,
    Vm,
    VmState,
    attempt,
    find_vms,
    persist,
)
from bootgraft_host.link import Link
from bootgraft_host.machine import Configuration, MachineError, Media, NotOursError, State
from bootgraft_host.replies import Progress

MAX_TRIES = 4  # of a change whose answer was lost
THIS_COMPUTER = "."
NO_HEARTBEAT = ("", "Disabled", "NoContact", "Unknown")


def open_machine(target: str) -> "HyperVMachine":
    """Return the machine that `hyperv://HOST/VM` names; an Id needs no connection.

    Raises ConfigurationError where there is none, HostError where the host does not say.
    """
    parsed = parse_target(target)
    base = read_settings(parsed.host).upload_folder
    runner = open_runner(parsed.host)
    if parsed.vm_id is not None:
        return HyperVMachine(runner, parsed.vm_id, parsed.vm_id, upload_base=base)
    try:
        found = find_vm(runner, parsed.vm)
    except BaseException:
        runner.close()
        raise
    return HyperVMachine(runner, found.id, found.name, upload_base=base)


class HyperVMachine:
    """A machine on a Hyper-V host; see machine.Machine."""

    def __init__(
        self, runner: Runner, vm_id: str, name: str, *, upload_base: str | None = None
    ) -> None:
        self._runner = runner
        self._vm = Vm(runner, vm_id)
        self._name = name
        self._upload_base = upload_base
        self._captured: Captured | None = None  # by this controller
        self._mark: Mark | None = None  # what this controller has put into the notes last
        self._has_started = False
        self._uploaded: tuple[UploadedIso, ...] | None = ()  # None: what is there is not known

    @property
    def machine_id(self) -> str:
        """The machine's Id, with a word before it."""
        return f"hyperv-{self._vm.id}"

    @property
    def name(self) -> str:
        """Its name on the host, as far as that is known; else its Id."""
        return self._name

    @property
    def target(self) -> str:
        """The machine by its Id."""
        return f"{SCHEME}{self._runner.host}/{self._vm.id}"

    def claim(self) -> AbstractContextManager[None]:
        """Keep away the other controllers on this computer; `attach` does those on others."""
        return claim_name(self.machine_id, self._name)

    def has_com1(self) -> bool:
        """Whether COM1 leads to a pipe, and not to one of a run's."""
        path = self._describe().com1.path
        return bool(path) and not is_own_pipe(path)

    def lends_com1(self) -> bool:
        """Every machine has a COM1 that can lead to us for a while."""
        return True

    def state(self) -> State:
        """Read whether the machine is off, running, or something else (saved, paused)."""
        return _as_state(self._vm.read_state())

    def _describe(self) -> VmDescription:
        description = self._vm.describe()
        self._name = description.name
        return description

    # Before a run.

    def problems(self, media: Media) -> tuple[str, ...]:
        """Say what would stand in a run's way; changes nothing."""
        description = self._describe()
        facts = Facts(iso_problems=tuple(self._find_iso_problems(media)))
        return tuple(find_problems(description, media, facts))

    def _find_iso_problems(self, media: Media) -> list[str]:
        words = ("the live ISO", "the payload ISO")
        named = zip(words, media.isos, strict=False)
        found = ((what, self._find_iso_problem(iso, media)) for what, iso in named)
        return [f"{what}: {problem}" for what, problem in found if problem is not None]

    def _find_iso_problem(self, iso: Path, media: Media) -> str | None:
        if media.upload:
            return find_local_problem(iso)
        path = _host_path(iso)
        return find_path_problem(str(iso)) or persist(lambda: find_iso_problem(self._runner, path))

    def remarks(self, media: Media) -> tuple[str, ...]:
        """Say what a person should know of this run and what stands in nobody's way."""
        description = self._describe()
        namesakes = tuple(
            vm.id
            for vm in find_vms(self._runner)
            if vm.name.casefold() == description.name.casefold() and vm.id != self._vm.id
        )
        return tuple(find_remarks(description, media, Facts(namesakes=namesakes)))

    def held_by_others(self) -> str | None:
        """Say which run its notes name; a run of ours has not begun, or is over."""
        return _explain_holder(self._describe())

    def capture(self) -> Configuration:
        """Read the machine's whole description; choose the run's mark and the pipe's name."""
        description = self._describe()
        held = _explain_holder(description)
        if held is not None:
            raise HeldError(held)
        self._captured = capture_description(description, datetime.now(UTC))
        self._has_started = False
        return self._captured.to_document()

    def prepare_media(self, media: Media, tell: Callable[[Progress], None]) -> Media:
        """Copy the ISOs to the machine's folder on the host, where that is asked for."""
        if not media.upload:
            return media
        self._uploaded = None
        uploaded = upload_isos(self._runner, self._upload_base, self._vm.id, media.isos, tell)
        self._uploaded = uploaded
        live, *payload = (Path(iso.path) for iso in uploaded)
        return replace(media, live_iso=live, payload_iso=payload[0] if payload else None)

    # Attach and detach.

    def attach(self, media: Media) -> None:
        """Mark the machine as ours, then put the media in, DVD first, COM1 on our own pipe."""
        captured = self._require_captured()
        isos = tuple(_host_path(iso) for iso in media.attached)
        self._hold(captured.marked_for(tuple(_host_path(iso) for iso in media.isos)))
        self._make_changes(lambda now: plan_changes(now, wanted_for_live(now, isos, captured.pipe)))

    def prepare_confirm(self, *, com1: bool) -> None:
        """Keep the host from interfering with the boot; lend COM1 a pipe of ours."""
        captured = self._require_captured()
        pipe = captured.pipe if com1 else None
        self._hold(captured.mark)
        self._make_changes(lambda now: plan_changes(now, wanted_for_watch(now, pipe)))

    def _hold(self, mark: Mark) -> None:
        take_mark(self._vm, mark)
        self._mark = mark

    def _make_changes(self, plan: Callable[[VmDescription], Changes]) -> None:
        mark = self._mark
        assert mark is not None  # noqa: S101 - it was taken just now

        def plan_while_held(now: VmDescription) -> Changes:
            require_mark(now, mark)
            return plan(now)

        make_changes(self._vm, plan_while_held)

    def insert_payload(self, media: Media) -> None:
        """Put the payload ISO into the lowest DVD drive."""
        if media.payload_iso is None:
            return
        path = _host_path(media.payload_iso)
        for _ in range(MAX_TRIES):
            drives = hardware_of(self._describe()).dvd_drives
            if not drives:
                raise MachineError(f"{self._name} has no DVD drive any more")
            slot = min(drives)
            if same_path(drives[slot], path):
                return
            attempt(partial(self._vm.insert, slot, path))
        raise MachineError(f"{path} does not stay in the DVD drive {slot} of {self._name}")

    def detach(self, captured: Configuration, *, keep_adapter: bool) -> None:
        """Restore what `capture` read; what others have changed stays, see `wanted_after`.

        What is ours is known by the mark in the notes, which goes last. Where somebody has removed
        it, this controller knows; where that is another one, COM1 tells by the pipe's name. Without
        all of these the machine has been restored. Raises HeldError where another run holds it and
        something of ours is left.
        """
        before = parse_captured(captured, self._vm.id)
        ours = self._find_ours(before, self._describe())

        def plan(now: VmDescription) -> Changes:
            wanted = wanted_after(before.description, now, ours, keep_adapter=keep_adapter)
            changes = plan_changes(now, wanted)
            if changes:
                require_no_other(now, before.mark.token)
            return changes

        advice = "an ISO that is gone: put it back there, or another into the drive"
        make_changes(self._vm, plan, advice=advice)
        self._has_started = False  # whoever starts it from here on starts it as it was
        self._remove_uploads(before.mark.token)
        remove_mark(self._vm, before.mark.token)
        self._mark = None

    def _remove_uploads(self, token: str) -> None:
        """Remove the ISOs in the machine's folder, but for another run's, and those in a drive."""
        if self._captured is not None and self._uploaded == ():
            return
        now = self._describe()
        others = [mark for mark in find_marks(now.notes) if mark.token != token]
        used = {iso for mark in others for iso in mark.isos}
        used |= {drive.path for drive in now.dvd_drives}
        persist(lambda: remove_uploads(self._runner, self._upload_base, self._vm.id, keep=used))
        self._uploaded = ()

    def take_media_out(self) -> tuple[str, ...]:
        """Empty the DVD drives, CD last. Raises HeldError where a run holds the machine."""
        return take_media_out(self._vm)

    def _find_ours(self, before: Captured, now: VmDescription) -> Ours | None:
        mark = find_own_mark(now.notes, before.mark.token) or self._mark
        if mark is not None and mark.token == before.mark.token:
            return Ours(before.pipe, frozenset(mark.isos))
        if same_path(now.com1.path, before.pipe):
            return Ours(before.pipe, None)
        return None

    def _require_captured(self) -> Captured:
        if self._captured is None:
            raise MachineError(f"{self._name} is changed only after it was captured")
        return self._captured

    # Checkpoints.

    def can_checkpoint(self) -> bool:
        """Whether the machine's settings allow checkpoints."""
        return self._describe().checkpoint_type != "Disabled"

    def take_checkpoint(self, name: str) -> None:
        """Make a checkpoint, unless there is one of that name."""
        for _ in range(MAX_TRIES):
            if self._find_checkpoints(name):
                return
            attempt(partial(self._vm.take_checkpoint, name))
        raise MachineError(f"the host does not keep the checkpoint {name} of {self._name}")

    def remove_checkpoint(self, name: str) -> None:
        """Remove the checkpoint of that name; the host merges its disks in the background."""
        for _ in range(MAX_TRIES):
            found = self._find_checkpoints(name)
            if not found:
                return
            attempt(partial(self._vm.remove_checkpoint, found[0]))
        raise MachineError(f"the checkpoint {name} of {self._name} cannot be removed")

    def _find_checkpoints(self, name: str) -> tuple[str, ...]:
        checkpoints = self._describe().checkpoints
        return tuple(checkpoint.id for checkpoint in checkpoints if checkpoint.name == name)

    def how_to_use_checkpoint(self, name: str) -> str:
        """Name the commands of PowerShell's."""
        get = "Get-VMSnapshot -Name '{}'".format(name.replace("'", "''"))
        back = for_machine(self._vm.id, f"{get} | Restore-VMSnapshot")
        remove = for_machine(self._vm.id, f"{get} | Remove-VMSnapshot")
        return f"{back} goes back to it, {remove} removes it (in PowerShell on {self._runner.host})"

    # Power.

    def start(self) -> None:
        """Switch the machine on; returns when the host says that it is."""
        found = self._vm.read_state()
        if found.state != OFF:
            raise MachineError(f"cannot start {self._name}: it is not off, but {found.state}")
        uploaded = self._uploaded
        if uploaded and self._mark is not None and self._mark.isos:
            persist(lambda: verify_again(self._runner, uploaded))
        self._has_started = True
        for _ in range(MAX_TRIES):
            if attempt(self._vm.start) or self._vm.read_state().state != OFF:
                return
        raise MachineError(f"{self._name} cannot be started: its host is cut off again and again")

    def turn_off(self) -> None:
        """Cut the power, whatever the guest is doing; a machine that is off stays so.

        Raises NotOursError where the machine is on for somebody else.
        """
        for tries_left in reversed(range(MAX_TRIES)):
            if self._vm.read_state().state == OFF:
                return
            self._require_ours_to_turn_off()
            try:
                attempt(self._vm.turn_off)
            except ScriptError:  # as while it is just starting, or going off by itself
                if not tries_left and self._vm.read_state().state != OFF:
                    raise
                time.sleep(POLL_INTERVAL)

    def _require_ours_to_turn_off(self) -> None:
        description, captured = self._describe(), self._captured
        mark = find_foreign_mark(description.notes, captured.mark.token if captured else None)
        if mark is not None and (captured or mark.holder != own_name()):
            raise HeldError(
                f"the power is not cut, as {explain_mark(description, mark)}; if you know better,"
                " turn it off by hand"
            )
        if captured is None or self._has_started or self._has_ours(captured, description):
            return
        raise NotOursError(
            f"{description.name} is not off, but {description.state}, and not for this run: it was"
            " switched on by somebody else, and its hardware is its own; so its power is not cut"
        )

    def _has_ours(self, captured: Captured, now: VmDescription) -> bool:
        ours = self._find_ours(captured, now)
        wanted = wanted_after(captured.description, now, ours, keep_adapter=False)
        return bool(plan_changes(now, wanted))

    def wait_off(self, timeout: float) -> bool:
        """Wait until the machine is off; an unreachable host is waited for as long."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                if self._vm.read_state(patient=False).state == OFF:
                    return True
            except UnreachableError:
                if time.monotonic() >= deadline:
                    raise
            if time.monotonic() >= deadline:
                return False
            time.sleep(max(0.0, min(POLL_INTERVAL, deadline - time.monotonic())))

    # Serial port and screen.

    def open_serial(
        self, timeout: float, *, transcript: Callable[[bytes], None] | None = None
    ) -> Link:
        """Connect to COM1's pipe, by a relay on the host unless that is this computer."""
        path = self._describe().com1.path
        if not path.lower().startswith(PIPE_FOLDER):
            where = f"leads to {path!r}" if path else "is not connected"
            raise MachineError(
                f"COM1 of {self._name} {where}: there is no pipe to open on its host"
            )
        name, host = path[len(PIPE_FOLDER) :], self._runner.host
        url = pipe_url(name) if host == THIS_COMPUTER else relay_url(host, name)
        link = Link(url, may_connect=PowerWatch(self._vm), transcript=transcript)
        if not link.wait_connected(timeout):
            link.close()
            raise MachineError(
                f"no connection to COM1 of {self._name}, {path} on {host}, within {timeout:.0f} s"
            )
        return link

    def take_screenshot(self, path: Path) -> None:
        """Write a picture of the screen, a PNG file."""
        try:
            take_thumbnail(self._runner, self._vm.id, path)
        except OSError as error:
            raise MachineError(f"cannot write {path}: {error.strerror}") from error

    def read_screen_text(self) -> str | None:
        """Hyper-V shows a machine's screen as a picture alone."""
        return None

    def heartbeat(self) -> str | None:
        """Read what the guest's integration services say; None where they say nothing."""
        word = self._vm.read_state().heartbeat
        return None if word in NO_HEARTBEAT else word

    def close(self) -> None:
        """End the session on the host."""
        self._runner.close()


def _as_state(found: VmState) -> State:
    known: dict[str, State] = {OFF: "off", "Running": "running"}
    return known.get(found.state, "other")


def _host_path(path: Path) -> str:
    """Give a path on the host as Hyper-V will show it."""
    return ntpath.normpath(str(path))


def _explain_holder(description: VmDescription) -> str | None:
    mark = find_foreign_mark(description.notes, token=None)
    return None if mark is None else explain_mark(description, mark)
