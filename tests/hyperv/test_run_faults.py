"""What can happen to a run on a Hyper-V host, and how it ends.

Each ends with the machine as it was (with a legacy adapter where its guest is grafted), or with a
message whose command brings it back once the cause is gone.
"""

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bootgraft_host.hyperv import relay_stream, upload
from hyperv.endpoint import PASSWORD
from hyperv.faults import FaultKind
from hyperv.happenings import (
    Happening,
    answer_first,
    at,
    checkpoint_stays,
    com1_stays,
    delete,
    fail,
    fill_disk,
    forget_marks,
    in_step,
    insert,
    iso_stays,
    lead_com1_away,
    let_in,
    listen_first,
    mark,
    name_stays,
    nothing,
    pause,
    reboot,
    refuse_everybody,
    remove_uploads,
    rename,
    reset,
    save,
    start,
    take_checkpoint,
    turn_off,
    unmark,
)
from hyperv.scenes import Ended, Scene, hurry, watch_steps
from hyperv.serve_host import ServedHost

matrix = pytest.mark.matrix

STEPS_BEFORE_ANY_CHANGE = ("preflight", "capture")
STEPS = (
    *("upload", "checkpoint", "attach", "boot", "handshake", "inspect", "plan", "apply"),
    *("power_off", "detach", "confirm", "restore"),
)
SCRIPTS = (
    *("find", "describe", "host", "files", "make-folder", "folder", "write-block", "hash"),
    *("rename", "remove", "checkpoint", "mark", "change", "state", "start", "relay-open"),
    *("relay-exchange", "relay-close", "screenshot", "turn-off", "remove-checkpoint"),
)


@pytest.fixture
def scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Scene]:
    hurry(monkeypatch)
    with ServedHost(tmp_path / "host") as served:
        monkeypatch.setenv("BOOTGRAFT_HOSTS", str(served.hosts_file))
        made = Scene(tmp_path, served, capsys)
        watch_steps(monkeypatch, made)
        yield made
        assert served.endpoint.problems == []


def nothing_stays(_: Scene) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens; the exit status; what is said; what a person does then; what stays of it."""

    what: str
    happens: Happening
    status: int
    says: str
    then: Happening = nothing
    stays: Callable[[Scene], dict[str, Any]] = field(default=nothing_stays)
    is_rare: bool = True


def often(*values: Any, **more: Any) -> Fault:
    """Make a fault that is tried each time, and not only in the larger matrices."""
    return replace(Fault(*values, **more), is_rare=False)


START, STARTED, STOP = "Hyper-V\\Start-VM", "Hyper-V\\Start-VM done", "Hyper-V\\Stop-VM"
NO_PIPE = "no connection to COM1"
ON = "cannot change appliance: it is on"
UNSURE = "whether the guest is changed is not known"
HELD = "a run by elsewhere holds appliance"

FAULTS = (
    Fault("password", lambda it: it.set_password("wrong"), 1, "Failed to authenticate"),
    often("the account is locked", in_step("inspect", refuse_everybody), 3, "let in", let_in),
    often("reboot in apply", in_step("apply", reboot), 3, UNSURE),
    Fault("reboot before the boot", in_step("boot", reboot), 0, "grafted"),
    Fault("reboot in the boot", in_step("handshake", reboot), 1, "turned off while HELLO"),
    Fault("reboot before detach", in_step("detach", reboot), 0, "grafted"),
    Fault("reboot in detach", at("Hyper-V\\Add-VMNetworkAdapter", reboot), 0, "grafted"),
    Fault("reboot in confirm", at(STARTED, reboot, 2), 0, "grafted"),
    Fault("reboot at the end", at(STOP, reboot), 0, "grafted"),
    often("started before attach", in_step("attach", start), 1, ON, turn_off),
    Fault("started before the start", in_step("boot", start), 1, "is not off, but Running"),
    Fault("started at the start", at(START, start), 0, "grafted"),
    Fault("started before detach", in_step("detach", start), 4, ON),
    Fault("started before confirm", in_step("confirm", start), 4, ON, turn_off),
    often("turned off", in_step("inspect", turn_off), 1, "turned off while the reply"),
    Fault("saved", in_step("inspect", save), 1, "the reply to inspect was awaited"),
    Fault("paused", in_step("power_off", pause), 0, "grafted"),
    Fault("reset", in_step("inspect", reset), 0, "grafted"),
    often("ISO deleted before the start", in_step("boot", remove_uploads), 1, "is gone since"),
    Fault("ISO deleted in attach", at("Hyper-V\\Set-VM", remove_uploads, 2), 1, "not found"),
    often("pipe busy", at(STARTED, listen_first), 1, NO_PIPE),
    Fault("pipe busy in confirm", at(STARTED, listen_first, 2), 4, NO_PIPE),
    Fault("a stranger's pipe", at(START, answer_first), 1, NO_PIPE),
    Fault("a stranger's pipe in confirm", at(START, answer_first, 2), 4, NO_PIPE),
    often("a checkpoint", in_step("inspect", take_checkpoint), 0, "", stays=checkpoint_stays),
    Fault("a checkpoint before", take_checkpoint, 0, "has checkpoints", stays=checkpoint_stays),
    Fault("another's mark before", mark, 1, HELD, unmark),
    Fault("another's mark in attach", in_step("attach", mark), 1, HELD, unmark),
    Fault("the mark removed", in_step("inspect", forget_marks), 0, "grafted"),
    Fault("renamed", in_step("inspect", rename), 0, "grafted", stays=name_stays),
    Fault("another payload", in_step("inspect", insert(1)), 0, "grafted", stays=iso_stays),
    Fault("another live ISO", in_step("inspect", insert(0)), 0, "grafted", stays=iso_stays),
    Fault("COM1 led away", in_step("detach", lead_com1_away), 0, "grafted", stays=com1_stays),
    Fault("the disk is full", fill_disk, 1, "1,000 bytes free"),
    Fault("no start", fail("Start-VM", "No memory."), 1, "No memory."),
    Fault("no second start", fail("Start-VM", "No memory.", 2), 4, "No memory."),
    Fault("no notes", fail("Set-VM", "Read-only."), 1, "Read-only."),
    Fault("no COM port", fail("Set-VMComPort", "Not now."), 0, "grafted"),
    Fault("no turning off", fail("Stop-VM", "Not now."), 0, "grafted"),
)


def rows() -> Iterator[Any]:
    for fault in FAULTS:
        yield pytest.param(fault, id=fault.what, marks=matrix if fault.is_rare else ())


def finish(scene: Scene, ended: Ended) -> None:
    """Type what the message says: recover the machine, or finish the graft."""
    names = [command[0] for command in ended.commands]
    if "recover" in names:
        finished = scene.bootgraft(*ended.command("recover"))
    else:
        finished = scene.run()
        assert "run" in names, ended.text
    assert finished.status == 0, finished.text


@pytest.mark.parametrize("fault", rows())
def test_a_fault_ends_with_the_machine_back_or_with_the_command_for_that(
    scene: Scene, fault: Fault
) -> None:
    fault.happens(scene)
    ended = scene.run()
    assert ended.status == fault.status, ended.text
    assert re.search(fault.says, ended.text), ended.text
    fault.then(scene)
    if ended.status == 3:
        finish(scene, ended)
    scene.check_restored(**fault.stays(scene))


def test_a_machine_that_was_deleted_is_forgotten_by_the_command_that_is_named(
    scene: Scene,
) -> None:
    scene.in_step("attach", lambda: delete(scene))
    ended = scene.run()
    assert ended.status == 3
    assert "it was deleted or moved" in ended.text
    (forget,) = re.findall(r"`(rm [^`]*)`", ended.text)
    _, path = shlex.split(forget)
    assert [Path(path)] == scene.unfinished()
    Path(path).unlink()
    assert "nothing to recover" in scene.bootgraft("recover").text


# The way to the host.


@pytest.mark.parametrize("step", STEPS_BEFORE_ANY_CHANGE)
def test_a_host_that_is_lost_before_any_change_has_nothing_to_restore(
    scene: Scene, step: str
) -> None:
    scene.in_step(step, scene.cut_off)
    ended = scene.run()
    assert ended.status == 1
    assert "the machine is as it was" in ended.text
    scene.is_back()
    scene.check_restored()


@pytest.mark.parametrize(
    "step", [pytest.param(step, marks=() if step == "detach" else matrix) for step in STEPS]
)
def test_a_host_that_is_lost_in_any_step_is_recovered_when_it_is_back(
    scene: Scene, step: str
) -> None:
    scene.options = (*scene.options, *(("--checkpoint",) if step == "checkpoint" else ()))
    scene.in_step(step, scene.cut_off)
    ended = scene.run()
    assert ended.status == 3, ended.text
    assert "is a legacy one now" not in ended.text
    again = scene.bootgraft(*ended.command("recover"))
    assert again.status == 3, again.text
    scene.is_back()
    finish(scene, again)
    scene.check_restored()


def test_a_host_that_is_away_for_a_moment_in_each_step_holds_no_run_up(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_stream, "PERSISTENCE", 25.0)
    monkeypatch.setattr(upload, "RETRY_FOR", 60.0)
    scene.options = (*scene.options, "--checkpoint")
    gone: list[str] = []

    def lose(step: str) -> None:
        gone.append(step)
        scene.cut_off_for(0.3)

    for step in (*STEPS_BEFORE_ANY_CHANGE, *STEPS, "remove_checkpoint"):
        scene.in_step(step, partial(lose, step))
    ended = scene.run()
    assert ended.status == 0, ended.text
    assert len(gone) == len(STEPS) + 3
    scene.check_restored()


@pytest.mark.parametrize("kind", FaultKind)
def test_a_connection_that_is_cut_once_in_each_script_holds_no_run_up(
    scene: Scene, kind: FaultKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "RETRY_FOR", 60.0)
    scene.options = (*scene.options, "--checkpoint")
    for script in SCRIPTS:
        scene.served.endpoint.arm(kind, script=script)
    ended = scene.run()
    assert ended.status == 0, ended.text
    assert scene.served.endpoint.armed() == []
    scene.check_restored()


@matrix
@pytest.mark.parametrize("kind", FaultKind)
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_connection_that_is_cut_again_and_again_in_a_script_ends_restored(
    scene: Scene, script: str, kind: FaultKind
) -> None:
    scene.options = (*scene.options, "--checkpoint")
    for _ in range(6):
        scene.served.endpoint.arm(kind, script=script)
    ended = scene.run()
    scene.served.endpoint.disarm()
    if ended.status == 3:
        finish(scene, ended)
    if ended.status == 0:
        assert "grafted" in ended.text
    scene.check_restored(**scene.named_checkpoint(ended))


def test_the_right_password_is_wanted_and_shown_to_nobody(scene: Scene) -> None:
    scene.set_password("wrong-word")
    refused = scene.run()
    assert refused.status == 1
    scene.set_password(PASSWORD)
    ended = scene.run()
    assert ended.status == 0
    kept = [path.read_bytes() for path in (scene.folder / "state").rglob("*") if path.is_file()]
    kept += [refused.text.encode(), ended.text.encode()]
    for secret in ("wrong-word", PASSWORD):
        assert not [data for data in kept if secret.encode() in data]
