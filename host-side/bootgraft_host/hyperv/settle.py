"""What no document says about Hyper-V, settled by trying it on a scratch machine.

::

    before the first start    F  does an empty path clear a COM port?
    first start               B  live ISO in the lower drive, a blank one in the upper: HELLO?
                              C  bytes per second on COM1
                              D  eject and insert while the guest looks at the drive
                              A  change the BIOS and a COM port while the machine runs
                              G  what becomes of COM1's output after a client has gone
                              E  COM1's pipe over the network, from the host to itself
    second start              B  the blank ISO in the lower drive
                              G  what becomes of COM1's output before a first client

An answer says what was seen; where a trial fails, its question is not settled, and why. The scratch
machine and the copies of the ISOs are removed in the end.
"""

import logging
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from bootgraft_agent.errors import BootgraftError
from bootgraft_agent.wire import JSON, Decoder
from bootgraft_host.client import Client
from bootgraft_host.hyperv.blank_iso import make_blank_iso
from bootgraft_host.hyperv.changes import Changes, hardware_of, wanted_for_live
from bootgraft_host.hyperv.description import Slot
from bootgraft_host.hyperv.host_files import ask, read_host
from bootgraft_host.hyperv.line_speed import MeasuredLine, measure_speed
from bootgraft_host.hyperv.pipe_names import pipe_path
from bootgraft_host.hyperv.runner import HostError, Runner, ScriptError
from bootgraft_host.hyperv.scratch import (
    Scratch,
    keep_trying,
    make_scratch,
    remove_folder_command,
)
from bootgraft_host.hyperv.upload import remove_uploads, upload_isos
from bootgraft_host.link import Link
from bootgraft_host.replies import Progress

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Waits:
    """How long things are waited for; seconds."""

    boot: float = 240.0  # for HELLO, from the start on
    away: float = 10.0  # without a client, while the agent says HELLO each second
    first_words: float = 3.0  # after connecting, in which all that was kept for us comes
    reach: float = 5.0  # for a pipe, and for bytes from it
    request: float = 60.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of a question now."""

    letter: str
    question: str
    settled: bool
    answer: str


@dataclass(frozen=True, slots=True)
class Settled:
    """What the trials came to."""

    findings: tuple[Finding, ...]  # one for each of QUESTIONS, in their order
    left: str | None  # what could not be removed, and what removes it


Connect = Callable[[str], Link]  # to a pipe of the host's, by its name; again when it was cut off
Tell = Callable[[str], None]

QUESTIONS = {
    "A": "Can the BIOS and the COM ports of a running machine be changed?",
    "B1": "Does it boot the live ISO in the lower DVD drive, with another ISO in the upper one?",
    "B2": "Does it boot the live ISO in the upper DVD drive, with another ISO in the lower one?",
    "C": "How fast is COM1?",
    "D": "Can ISOs be ejected and inserted while the guest looks at the drive?",
    "E": "Can the pipe of COM1 be opened over the network?",
    "F": "Does an empty path disconnect a COM port?",
    "G1": "Is COM1's output kept for a client before the first one connects?",
    "G2": "Is COM1's output kept for the next client after one has gone?",
}


def settle(
    runner: Runner,
    base: str | None,
    live_iso: Path,
    connect: Connect,
    tell: Tell,
    *,
    waits: Waits | None = None,
) -> Settled:
    """Try everything out; takes minutes.

    `base` is the host's upload_folder. Raises MachineError where nothing can be tried.
    """
    scratch = make_scratch(runner, base)
    trial = _Trial(scratch, connect, tell, waits or Waits())
    try:
        _try_out(trial, base, live_iso)
    finally:
        tell(f"removing {scratch.name}")
        left = _remove(scratch, base)
        if left is not None:
            tell(left)
    return Settled(tuple(trial.finding(letter) for letter in QUESTIONS), left)


def _remove(scratch: Scratch, base: str | None) -> str | None:
    """Remove the machine and the copies of the ISOs; gives what is left, and the commands."""
    try:
        scratch.remove()
    except HostError as error:
        return str(error)
    try:
        keep_trying(lambda: remove_uploads(scratch.runner, base, scratch.vm.id, parts=True))
    except HostError as error:
        return (
            f"copies of the ISOs may be left on {scratch.runner.host}: {error}; remove them there"
            f" with: {remove_folder_command(base, scratch.vm.id)}"
        )
    return None


@dataclass(slots=True)
class _Trial:
    """The trials with one scratch machine, and what they have come to."""

    scratch: Scratch
    connect: Connect
    tell: Tell
    waits: Waits
    isos: list[str] = field(default_factory=list)  # on the host: the live one, the blank one
    pipe: str = field(default_factory=lambda: f"bootgraft-{secrets.token_hex(16)}")
    boot_time: float | None = None  # seconds until HELLO
    _findings: dict[str, Finding] = field(default_factory=dict)

    @property
    def runner(self) -> Runner:
        return self.scratch.runner

    def run(self, letter: str, ask_it: Callable[[], str]) -> None:
        """Settle a question by what `ask_it` gives, or say why it is not settled."""
        self.tell(f"{letter}: {QUESTIONS[letter]}")
        try:
            answer, settled = ask_it(), True
        except (BootgraftError, OSError) as error:
            answer, settled = str(error), False
        self._findings[letter] = Finding(letter, QUESTIONS[letter], settled, answer)

    def finding(self, letter: str) -> Finding:
        untried = Finding(letter, QUESTIONS[letter], settled=False, answer="it was not tried")
        return self._findings.get(letter, untried)

    def settled(self, letter: str) -> bool:
        return letter in self._findings and self._findings[letter].settled

    def leave(self, letters: tuple[str, ...], reason: str) -> None:
        """Say why questions that need something else first are not settled."""
        for letter in letters:
            if letter not in self._findings:
                self._findings[letter] = Finding(letter, QUESTIONS[letter], False, reason)


def _try_out(trial: _Trial, base: str | None, live_iso: Path) -> None:
    trial.tell(f"made {trial.scratch.name} on {trial.runner.host}; copying the ISOs")
    with tempfile.TemporaryDirectory() as folder:
        blank = Path(folder, "blank.iso")
        blank.write_bytes(make_blank_iso())
        uploaded = upload_isos(
            trial.runner, base, trial.scratch.vm.id, [live_iso, blank], _teller(trial.tell)
        )
    trial.isos = [iso.path for iso in uploaded]
    trial.run("F", lambda: _clear_com_port(trial))
    try:
        _first_start(trial)
        _second_start(trial)
    except (BootgraftError, OSError) as error:
        trial.leave(tuple(QUESTIONS), str(error))


def _words(error: HostError) -> str:
    """Say why something was refused; PowerShell's own words where it was a script."""
    return f"{error.detail} ({error.error_id})" if isinstance(error, ScriptError) else str(error)


def _teller(tell: Tell) -> Callable[[Progress], None]:
    def note(progress: Progress) -> None:
        if progress.done == progress.total:
            tell(f"{progress.text}: {progress.total:,} bytes")

    return note


# While the machine is off.


def _clear_com_port(trial: _Trial) -> str:
    scratch = trial.scratch
    seen = []
    for words, path in (("an empty text", ""), ("$null", None)):
        scratch.connect_com_port(2, pipe_path(f"{trial.pipe}-com2"))
        before = scratch.com_port(2)
        try:
            scratch.connect_com_port(2, path)
        except HostError as error:
            seen.append(f"{words} is refused: {_words(error)}")
            continue
        after = scratch.com_port(2)
        done = "disconnects it" if before and not after else f"leaves {after!r}"
        seen.append(f"{words} {done}")
    return "; ".join(seen)


# The first start.


def _first_start(trial: _Trial) -> None:
    live, blank = trial.isos
    _prepare(trial, [live, blank])
    trial.scratch.vm.start()
    line = MeasuredLine(trial.connect(trial.pipe))
    try:
        client = Client(line, on_event=lambda event: log.debug("%s", event))
        trial.run("B1", lambda: _await_hello(trial, client))
        if not trial.settled("B1"):
            trial.leave(("A", "C", "D", "E", "G1", "G2"), "the live system was not heard of")
            return
        trial.run("C", lambda: str(measure_speed(client, line, trial.waits.request)))
        trial.run("D", lambda: _exchange_while_busy(trial, client))
    finally:
        line.close()
    trial.run("A", lambda: _change_while_running(trial))
    trial.run("G2", lambda: _hear_after(trial, trial.waits.away))
    trial.run("E", lambda: _reach_over_network(trial))


def _prepare(trial: _Trial, isos: list[str]) -> None:
    """Have the ISOs in the DVD drives, the lower one first, and COM1 at our pipe."""
    scratch = trial.scratch
    scratch.turn_off()
    found = scratch.vm.describe()
    scratch.bring_to(replace(hardware_of(found), dvd_drives=dict.fromkeys(_slots(trial), "")))
    scratch.bring_to(wanted_for_live(scratch.vm.describe(), isos, pipe_path(trial.pipe)))


def _slots(trial: _Trial) -> list[Slot]:
    """Give the slots of the DVD drives, the lowest first."""
    return sorted(drive.slot for drive in trial.scratch.vm.describe().dvd_drives)


def _await_hello(trial: _Trial, client: Client) -> str:
    begun = time.monotonic()
    client.await_hello(trial.waits.boot)
    trial.boot_time = time.monotonic() - begun
    return f"yes: HELLO came {trial.boot_time:.0f} s after the start"


def _exchange_while_busy(trial: _Trial, client: Client) -> str:
    """Eject the blank ISO and insert it again while the agent inspects, over and over."""
    slot = _slots(trial)[1]
    inspections = 0
    with ThreadPoolExecutor(1) as pool:
        exchange = pool.submit(lambda: list(_exchange(trial, slot)))
        while not exchange.done() or not inspections:
            client.request("inspect", {}, trial.waits.request)
            inspections += 1
    return f"{'; '.join(exchange.result())}; inspections of the guest meanwhile: {inspections}"


def _exchange(trial: _Trial, slot: Slot) -> Iterator[str]:
    for words, path in (("eject", None), ("insert", trial.isos[1])):
        begun = time.monotonic()
        try:
            trial.scratch.insert(slot, path)
        except HostError as error:
            yield f"{words}: refused: {_words(error)}"
            continue
        found = {drive.slot: drive.path for drive in trial.scratch.vm.describe().dvd_drives}
        done = "done" if bool(found[slot]) == bool(path) else f"no error, but {found[slot]!r} is in"
        yield f"{words}: {done} in {time.monotonic() - begun:.1f} s"


def _change_while_running(trial: _Trial) -> str:
    scratch = trial.scratch
    order = scratch.vm.describe().startup_order
    turned = (*order[1:], order[0])
    com2 = pipe_path(f"{trial.pipe}-com2")
    seen = []
    try:
        scratch.vm.change(Changes(startup_order=turned))
    except HostError as error:
        seen.append(f"BIOS: refused: {_words(error)}")
    else:
        now = scratch.vm.describe().startup_order
        seen.append(f"BIOS: {'changed' if now == turned else f'no error, but it is {now}'}")
    try:
        scratch.connect_com_port(2, com2)
    except HostError as error:
        seen.append(f"COM2: refused: {_words(error)}")
    else:
        path = scratch.com_port(2)
        seen.append(f"COM2: {'changed' if path == com2 else f'no error, but it is {path!r}'}")
    return "; ".join(seen)


@dataclass(frozen=True, slots=True)
class Heard:
    """What a client heard that connected after nobody had listened for a while."""

    unheard: float  # seconds in which the agent spoke and nobody listened
    period: float  # seconds from connecting on
    size: int  # bytes that came in it
    hellos: int  # among them
    any: bool  # whether a HELLO came at all

    def __str__(self) -> str:
        kept = self.hellos > self.period + self.unheard / 2
        return (
            f"{'yes' if kept else 'no'}: {self.hellos} HELLOs, {self.size} bytes, came within"
            f" {self.period:.0f} s of connecting, of an agent that had said one each second for"
            f" about {self.unheard:.0f} s before"
        )


def _listen_after(trial: _Trial, silence: float) -> Heard:
    """Connect after `silence` seconds, and hear what comes first."""
    time.sleep(silence)
    line = trial.connect(trial.pipe)
    try:
        if not line.wait_connected(trial.waits.boot):
            raise HostError(f"the pipe {trial.pipe} on {trial.runner.host} could not be opened")
        heard = first = _read_for(line, trial.waits.first_words)
        deadline = time.monotonic() + trial.waits.boot
        while not _count_hellos(heard) and time.monotonic() < deadline and not line.ended:
            heard += line.read(1.0)
    finally:
        line.close()
    return Heard(
        unheard=trial.waits.away,
        period=trial.waits.first_words,
        size=len(first),
        hellos=_count_hellos(first),
        any=bool(_count_hellos(heard)),
    )


def _hear_after(trial: _Trial, silence: float) -> str:
    heard = _listen_after(trial, silence)
    if not heard.any:
        raise HostError(f"no HELLO came within {trial.waits.boot:.0f} s")
    return str(heard)


def _read_for(line: Link, seconds: float) -> bytes:
    deadline = time.monotonic() + seconds
    heard = bytearray()
    while (left := deadline - time.monotonic()) > 0 and not line.ended:
        heard += line.read(left)
    return bytes(heard)


def _count_hellos(data: bytes) -> int:
    return sum(frame.kind == "H" for frame in Decoder().feed(data))


def _reach_over_network(trial: _Trial) -> str:
    name = read_host(trial.runner).computer_name
    here = _reach(trial, ".")
    if not here:
        raise HostError("nothing came from the pipe even without the network")
    try:
        there = _reach(trial, name)
    except HostError as error:
        return f"no, not from the host to itself as \\\\{name}\\pipe: {_words(error)}"
    return (
        f"yes, from the host to itself as \\\\{name}\\pipe: {there} bytes came"
        f" ({here} without the network); from another computer it is not tried"
    )


def _reach(trial: _Trial, server: str) -> int:
    """Open COM1's pipe on the host, and count the bytes that come."""
    asked: dict[str, JSON] = {
        "Server": server,
        "Name": trial.pipe,
        "Milliseconds": round(trial.waits.reach * 1000),
    }
    return len(ask(trial.runner, "reach-pipe", asked).data("Data").rstrip(b"\0"))


# The second start.


def _second_start(trial: _Trial) -> None:
    """Start with the ISOs the other way round, and connect late.

    Where the machine does not boot so, the late client has to wait for another start.
    """
    live, blank = trial.isos
    if trial.boot_time is None:
        trial.leave(("B2", "G1"), "the live system was not heard of")
        return
    _prepare(trial, [blank, live])
    trial.scratch.vm.start()
    late = trial.boot_time + trial.waits.away
    trial.run("B2", lambda: _boots_other_way(trial, late))
    if not trial.settled("G1"):
        _prepare(trial, [live, blank])
        trial.scratch.vm.start()
        trial.run("G1", lambda: _hear_after(trial, late))


def _boots_other_way(trial: _Trial, late: float) -> str:
    heard = _listen_after(trial, late)
    if not heard.any:
        return f"no: nothing was heard of it within {late + trial.waits.boot:.0f} s"
    trial.run("G1", lambda: str(heard))
    return "yes: HELLO was heard"
