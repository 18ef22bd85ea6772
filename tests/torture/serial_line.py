"""The serial line, as bad as it can be: between the real controller's client and the real agent.

Most cases have the agent in a process of its own, on a terminal, with a guest that is a folder;
some are whole runs of the controller on a machine in QEMU. A line that is only bad must not be
noticed at the end. One that is hopeless or dead ends in an error, in time; the guest is the old one
or the grafted one, and once the line is good again, a second conversation ends as it must.
"""

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tty
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bootgraft_agent.errors import BootgraftError, InvalidRequestError
from bootgraft_agent.wire import JSON
from bootgraft_host.client import Client
from bootgraft_host.job import Deadlines, Setup
from bootgraft_host.link import Link, unix_url
from bootgraft_host.machine import MachineError, Media
from bootgraft_host.qemu import QemuMachine
from bootgraft_host.replies import parse_applied, parse_inspection, parse_plan
from bootgraft_host.results import RunResult
from bootgraft_host.runs import StateDirectory
from bootgraft_host.workflow import GraftOrder, run_graft
from host.bench import Watcher
from torture.bad_line import KINDS, BadLine, Dead, Kind
from torture.family import Settings, Tally
from vm.appliance import Appliance, build_appliance
from vm.demo import VM_TOML
from vm.payload import build_payload, good_files, write_files
from vm.trees import build_tree

DEFAULT_COUNT = 200
AT_ONCE = 12  # conversations; they mostly wait
REQUEST_TIMEOUT = 90.0  # seconds, of which a case over a good line takes two
IMPATIENCE = 4.0  # seconds of silence, where the line is to be given up
IN_TIME = 30.0  # seconds from a line's death to the error
USUAL_BYTES = 45_000  # that a conversation has, both ways
RUN_ID = "torture"
FOREVER = 1e9  # seconds
LIVE_DEAD = 30.0  # seconds that the line of a whole run is dead
RUN_TIMEOUT = 420.0  # seconds for a whole run, most of which is QEMU's emulation

LOSS: Mapping[Kind, float] = {"lose": 0.001}
HARMLESS: tuple[Kind, ...] = ("chatter", "hold", "split", "old", "insert", "repeat")


@dataclass(frozen=True, slots=True)
class Plight:
    """What a line suffers; `hopeless` where a conversation may end in an error, in time."""

    name: str
    chances: Mapping[Kind, float]
    dead: Dead | None = None
    hopeless: bool = False
    roll_back: bool = False
    seed: float = 0.0


class SerialLine:
    """The family of conversations with a guest that is a folder."""

    name = "serial_line"

    def run(self, settings: Settings, rng: random.Random, tally: Tally) -> None:
        """Try them."""
        try_conversations(settings.count or DEFAULT_COUNT, settings.scratch, rng, tally)


class SerialRuns:
    """The family of whole runs on a machine; always the same three."""

    name = "serial_runs"

    def run(self, settings: Settings, rng: random.Random, tally: Tally) -> None:
        """Try them."""
        try_whole_runs(settings.iso, settings.scratch, rng, tally)


# What a line suffers


def draw_plight(number: int, rng: random.Random) -> Plight:
    """Draw one; the first is the loss of one byte in a thousand, and nothing else."""
    if number == 0:
        return Plight("one byte in 1,000 lost", LOSS, seed=rng.random(), roll_back=True)
    draw = rng.choices(
        [_bad, _harmless, _cutting, _dead_for_a_while, _hopeless, _dead_for_good],
        [40, 15, 15, 10, 10, 10],
    )[0]
    return draw(number, rng)


def _chances(kinds: tuple[Kind, ...], rarest: float, often: float, rng: random.Random) -> Plight:
    chosen = rng.sample(kinds, rng.randint(1, len(kinds)))
    total = 1 / rng.uniform(often, rarest)
    weights = [rng.uniform(0.1, 1.0) for _ in chosen]
    chances = {
        kind: total * weight / sum(weights) for kind, weight in zip(chosen, weights, strict=True)
    }
    words = ", ".join(f"{kind} 1/{1 / chance:.0f}" for kind, chance in chances.items())
    return Plight(words, chances, roll_back=rng.random() < 0.25, seed=rng.random())


def _bad(number: int, rng: random.Random) -> Plight:
    return _named(number, "bad", _chances(KINDS, 5000, 1000, rng))


def _harmless(number: int, rng: random.Random) -> Plight:
    return _named(number, "noisy", _chances(HARMLESS, 1500, 400, rng))


def _cutting(number: int, rng: random.Random) -> Plight:
    return _named(number, "cut", _chances(("cut",), 10_000, 2000, rng))


def _hopeless(number: int, rng: random.Random) -> Plight:
    return _named(number, "hopeless", _chances(KINDS, 200, 20, rng), hopeless=True)


def _dead_for_a_while(number: int, rng: random.Random) -> Plight:
    dead = Dead(rng.randrange(USUAL_BYTES), rng.uniform(0.5, 6.0), rng.random() < 0.5)
    return _named(number, "dead for a while", _chances(KINDS, 20_000, 5000, rng), dead=dead)


def _dead_for_good(number: int, rng: random.Random) -> Plight:
    dead = Dead(rng.randrange(USUAL_BYTES), FOREVER, rng.random() < 0.5)
    plight = _chances(KINDS, 50_000, 20_000, rng)
    return _named(number, "dead for good", plight, dead=dead, hopeless=True)


def _named(
    number: int, word: str, plight: Plight, *, dead: Dead | None = None, hopeless: bool = False
) -> Plight:
    name = f"{number}, {word}: {plight.name}"
    if dead is not None:
        what = "silent" if dead.connected else "cut"
        name += f", {what} after {dead.after} bytes for {min(dead.seconds, 9999):.1f} s"
    return Plight(name, plight.chances, dead, hopeless, plight.roll_back, plight.seed)


# Conversations with a guest that is a folder


def try_conversations(count: int, scratch: Path, rng: random.Random, tally: Tally) -> None:
    """Try so many conversations, some at once."""
    bench = FolderBench(scratch)
    plights = [draw_plight(number, rng) for number in range(count)]
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        ends = [(plight, pool.submit(bench.try_line, plight)) for plight in plights]
        for plight, end in ends:
            with tally.case(plight.name):
                end.result()
    finally:
        pool.shutdown(cancel_futures=True)


class FolderBench:
    """A guest and a payload to be copied, and what a good line makes of that guest."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._guest = scratch / "guest"
        build_tree("rhel5", self._guest)
        self._payload = scratch / "payload"
        write_files(self._payload, good_files())
        self._before = read_files(self._guest / "root")
        with self._agent(Plight("good", {})) as agent:
            self._complete(agent, Plight("good", {}))
            self._after = read_files(agent.guest)
        if self._after == self._before:
            raise RuntimeError("a graft over a good line changed nothing")

    def try_line(self, plight: Plight) -> None:
        """Have a conversation over a line in this plight. Raises what makes it a lost case."""
        with self._agent(plight) as agent:
            began = time.monotonic()
            try:
                self._complete(agent, plight)
            except BootgraftError as error:
                if not plight.hopeless:
                    raise
                check_in_time(agent.line, began, error)
                self._finish_over_a_good_line(agent)
            else:
                wanted = self._before if plight.roll_back else self._after
                check_guest(agent.guest, wanted)

    def _complete(self, agent: "FolderAgent", plight: Plight) -> None:
        """Graft, and roll back where wanted; every answer must be what the agent really said."""
        patience = IMPATIENCE if plight.hopeless else 30.0
        client = agent.meet(patience)
        for name, parse in (("inspect", parse_inspection), ("plan", parse_plan)):
            answer = client.request(name, {}, REQUEST_TIMEOUT)
            parse(answer)
            agent.check(name, answer)
        plan = parse_plan(answer)
        order = {"plan_sha256": plan.sha256, "run_id": RUN_ID}
        applied = client.request("apply", order, REQUEST_TIMEOUT)
        parse_applied(applied)
        agent.check("apply", applied)
        if plight.roll_back:
            back = client.request("rollback", {"run_id": RUN_ID}, REQUEST_TIMEOUT)
            agent.check("rollback", back)
        agent.power_off(client)

    def _finish_over_a_good_line(self, agent: "FolderAgent") -> None:
        """Do what a second run does, once the line is good again."""
        agent.line.heal()
        client = agent.meet(30.0)
        plan = parse_plan(request_when_free(client, "plan"))
        check_guest(agent.guest, self._before, self._after)
        if not plan.already_grafted:
            order = {"plan_sha256": plan.sha256, "run_id": "again"}
            parse_applied(client.request("apply", order, REQUEST_TIMEOUT))
        agent.power_off(client)
        check_guest(agent.guest, self._after)

    @contextlib.contextmanager
    def _agent(self, plight: Plight) -> Iterator["FolderAgent"]:
        with tempfile.TemporaryDirectory(dir=self._scratch) as name:
            folder = Path(name)
            shutil.copytree(self._guest, folder / "guest", symlinks=True)
            with FolderAgent(folder, self._payload, plight) as agent:
                yield agent


def check_guest(guest: Path, *wanted: Mapping[str, str]) -> None:
    """Raise where a guest is none of those wanted."""
    found = read_files(guest)
    if found not in wanted:
        differing = {name for name, what in found.items() if wanted[-1].get(name) != what}
        raise AssertionError(f"the guest is not as a good line would have it: {sorted(differing)}")


def check_in_time(line: BadLine, began: float, error: BootgraftError) -> None:
    """Raise where an error came later than it should."""
    since = max(line.died_at, began) if line.died_at else began
    limit = IN_TIME if line.died_at else REQUEST_TIMEOUT + IN_TIME
    if time.monotonic() - since > limit:
        raise AssertionError(f"given up only after {time.monotonic() - since:.0f} s: {error}")


def request_when_free(client: Client, name: str) -> Mapping[str, JSON]:
    """Ask an agent that may still work on what was asked before the line died."""
    deadline = time.monotonic() + REQUEST_TIMEOUT
    while True:
        try:
            return client.request(name, {}, REQUEST_TIMEOUT)
        except InvalidRequestError as error:
            if "still busy" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


class FolderAgent:
    """An agent in a process of its own, with a bad line to it."""

    def __init__(self, folder: Path, payload: Path, plight: Plight) -> None:
        self.guest = folder / "guest/root"
        self._record = folder / "record"
        self._record.touch()
        self._master, slave = os.openpty()
        tty.setraw(slave)
        tty.setraw(self._master)
        paths = filter(None, [os.environ.get("PYTHONPATH"), str(Path(__file__).parents[1])])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        arguments = [os.ttyname(slave), self.guest, payload, self._record]
        with (folder / "agent.log").open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "torture.tree_agent", *map(str, arguments)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stderr=errors,
            )
        self._slave = slave  # kept open, so that the line stays up whatever the agent does
        address = Path(tempfile.mkdtemp(prefix="bl")) / "com1"
        rng = random.Random(plight.seed)  # noqa: S311
        self.line = BadLine(self._master, address, plight.chances, rng, plight.dead)
        self._address = address
        self._link = Link(unix_url(address), may_connect=lambda: True)

    def __enter__(self) -> "FolderAgent":
        return self

    def __exit__(self, *_: object) -> None:
        self._link.close()
        self.line.close()
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)
        shutil.rmtree(self._address.parent)

    def meet(self, patience: float) -> Client:
        """Wait for the agent's HELLO; `patience` is how long it may be silent later, in seconds."""
        client = Client(self._link, on_event=lambda _: None, silence=patience)
        client.await_hello(max(patience, 10.0))
        return client

    def check(self, name: str, answer: Mapping[str, JSON]) -> None:
        """Compare an answer with what the agent has really said."""
        said = [json.loads(line) for line in self._record.read_text().splitlines()]
        if [name, answer] not in said:
            raise AssertionError(f"the answer to {name} is not what the agent said")
        if name in {"apply", "rollback"} and [each[0] for each in said].count(name) != 1:
            raise AssertionError(f"{name} was done more than once")

    def power_off(self, client: Client) -> None:
        """End the agent; its last word may be lost, as the controller knows."""
        with contextlib.suppress(BootgraftError):
            client.request("power_off", {}, 20.0)
        try:
            self.process.wait(20.0)
        except subprocess.TimeoutExpired as expired:
            raise AssertionError("the agent did not take the request to power off") from expired


def read_files(folder: Path) -> dict[str, str]:
    """Read what a guest's files are, but for the backups of a graft."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_file() and "/bootgraft/" not in name:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


# Whole runs of the controller, on a machine in QEMU


def try_whole_runs(iso: Path, scratch: Path, rng: random.Random, tally: Tally) -> None:
    """Graft the demo appliance, from power-on to its own proven boot, over bad lines."""
    bench = MachineBench(iso, scratch)
    with tally.case("a whole run, one byte in 1,000 lost"):
        bench.graft_all_the_same(LOSS, None, random.Random(rng.random()))  # noqa: S311
    dead = Dead(rng.randrange(1000, 20_000), LIVE_DEAD, connected=rng.random() < 0.5)
    with tally.case(f"a whole run, the line dead for {LIVE_DEAD:.0f} s after {dead.after} bytes"):
        bench.graft_all_the_same({}, dead, random.Random(rng.random()))  # noqa: S311
    dead = Dead(rng.randrange(20_000), FOREVER, connected=rng.random() < 0.5)
    with tally.case(f"a whole run, the line dead for good after {dead.after} bytes"):
        bench.give_up(dead, random.Random(rng.random()))  # noqa: S311


class MachineBench:
    """The demo appliance and its machine, to be copied, and a payload."""

    def __init__(self, iso: Path, scratch: Path) -> None:
        self._iso = iso
        self._scratch = scratch
        self._appliance: Appliance = build_appliance(scratch, token="bad-line")  # noqa: S106
        self._payload_iso = build_payload(scratch)

    def graft_all_the_same(
        self, chances: Mapping[Kind, float], dead: Dead | None, rng: random.Random
    ) -> None:
        """Run over such a line, until the appliance itself says that it has booted."""
        with self._machine() as vm:
            result = self._run(vm, chances, dead, rng)
            if (result.outcome, result.exit_status) != ("grafted", 0):
                raise AssertionError(f"{result.outcome}: {result.message}")
            if dead is not None and "apply" not in result.steps:
                raise AssertionError("the line died where nobody was waiting")

    def give_up(self, dead: Dead, rng: random.Random) -> None:
        """Run until the line is given up, in time; then once more over a good line."""
        with self._machine() as vm:
            before, began = vm.read_bytes(), time.monotonic()
            result = self._run(vm, {}, dead, rng)
            took = time.monotonic() - began
            if result.exit_status not in {1, 3} or not result.message:
                raise AssertionError(f"{result.exit_status}, {result.outcome}: {result.message}")
            if vm.read_bytes() != before or not result.machine_restored:
                raise AssertionError(f"the machine is not as it was: {result.message}")
            if took > RUN_TIMEOUT:
                raise AssertionError(f"given up only after {took:.0f} s")
            again = self._run(vm, {}, None, rng)
            if again.exit_status != 0:
                raise AssertionError(f"a second run over a good line: {again.message}")

    @contextlib.contextmanager
    def _machine(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self._scratch) as name:
            vm = Path(name, "vm.toml")
            vm.write_text(VM_TOML)
            shutil.copyfile(self._appliance.disk, vm.with_name("appliance.vhd"))
            yield vm

    def _run(
        self, vm: Path, chances: Mapping[Kind, float], dead: Dead | None, rng: random.Random
    ) -> RunResult:
        machine = BadlyConnected(vm, chances, dead, rng)
        state = StateDirectory(vm.parent / "state")
        deadlines = Deadlines(hello=120.0, request=300.0)
        order = GraftOrder(
            Media(self._iso, self._payload_iso), expect=re.compile(self._appliance.expect)
        )
        try:
            result = run_graft(Setup(machine, state, Watcher(), deadlines), order)
        finally:
            machine.close()
        if state.list_unfinished() or machine.state() != "off":
            raise AssertionError(f"something is left of the run: {result.message}")
        return result


class BadlyConnected(QemuMachine):
    """A machine whose COM1 is reached over a bad line as long as the live system runs."""

    def __init__(
        self, vm: Path, chances: Mapping[Kind, float], dead: Dead | None, rng: random.Random
    ) -> None:
        super().__init__(vm)
        self._plight = chances, rng, dead
        self._used = False
        self._closing = contextlib.ExitStack()

    def open_serial(
        self, timeout: float, *, transcript: Callable[[bytes], None] | None = None
    ) -> Link:
        """Connect to COM1 over the bad line; when the guest itself boots, over a good one."""
        if self._used:
            return super().open_serial(timeout, transcript=transcript)
        self._used = True
        guest = self._closing.enter_context(socket.socket(socket.AF_UNIX))
        guest.connect(str(self._qemu.com1_socket))
        address = self._qemu.folder / "bad-line"
        chances, rng, dead = self._plight
        self._closing.callback(address.unlink, missing_ok=True)
        self._closing.enter_context(BadLine(guest.fileno(), address, chances, rng, dead))
        link = Link(unix_url(address), may_connect=self._qemu.is_running, transcript=transcript)
        if not link.wait_connected(timeout):
            link.close()
            raise MachineError("no connection to the bad line")
        return link

    def turn_off(self) -> None:
        """End QEMU, and the line with it."""
        super().turn_off()
        self._closing.close()

    def wait_off(self, timeout: float) -> bool:
        """Wait until QEMU has ended, and end the line."""
        ended = super().wait_off(timeout)
        if ended:
            self._closing.close()
        return ended
