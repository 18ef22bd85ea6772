"""The controller killed anywhere, two controllers on one machine, a full disk, a read-only one.

The controller and its records on the disk are the real ones; the machine is simulated, with rules
as a hypervisor's, and outlives the controller; a few runs are of QEMU's machines. At the end the
machine's configuration is as it was captured, or the run was completed; nothing else.
"""

import contextlib
import multiprocessing
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bootgraft_agent.errors import BootgraftError
from bootgraft_host.workflow import run_recover
from host.bench import (
    GRAFTED_CONFIGURATION,
    MORE,
    PLAIN,
    Bench,
    FaultAt,
    at,
    check_aftermath,
    check_recovery,
    kill,
    kill_in_a_run,
    raise_machine_error,
    raise_os_error,
)
from host.simulated import CONFIGURATION, Guest, SimulatedMachine
from torture.family import Settings, Tally
from torture.small_appliance import BOOTED, build_small_appliance
from vm.appliance import convert_to_vhd
from vm.bench import Bench as RealBench
from vm.commands import run
from vm.demo import VM_TOML
from vm.payload import build_payload

INSTANTS = 60
REQUESTS = ("inspect", "plan", "apply", "power_off")  # the agent has them, and answers nobody
REAL_RUNS = 2
REAL_RUN_LENGTH = 50.0  # seconds; most of them until the live system has booted
JOIN_TIMEOUT = 60.0  # seconds
FILL_STEP = 4096  # bytes: a block of a tmpfs
ROOMS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24)  # blocks that are left on the disk of the records

_LEGACY_VM_TOML = VM_TOML.replace('kind = "virtio"', 'kind = "legacy"')

Check = Callable[[Bench], None]


class ControllerKilled:
    """The family."""

    name = "controller_killed"

    def run(self, settings: Settings, rng: random.Random, tally: Tally) -> None:
        """Kill it at every point and at random instants; take its disk away."""
        benches = _benches(settings.scratch)
        for everything, points in ((False, PLAIN), (True, MORE)):
            for point in points:
                for act in (raise_machine_error, raise_os_error):
                    with tally.case(f"{act.__name__} at {point}"):
                        _failed_at(next(benches), point, everything, act)
                for check in (_recover, _run_again, _recover_killed_too(rng)):
                    name = f"killed at {point}, then {check.__name__.strip('_')}"
                    with tally.case(name):
                        _killed_at(next(benches), point, everything, check)
        for request in REQUESTS:
            for check in (_recover, _run_again, _recover_killed_too(rng)):
                with tally.case(f"killed at {request}, then {check.__name__.strip('_')}"):
                    bench = next(benches)
                    kill_in_a_run(bench, bench.machine(Guest(at_request=at(request, kill))))
                    check(bench)
        length = _length_of_a_run(next(benches))
        for number in range(settings.count or INSTANTS):
            instant = rng.uniform(0, length)
            check = rng.choice((_recover, _run_again))
            with tally.case(f"killed {number}: after {instant:.3f} s, then {check.__name__}"):
                bench = next(benches)
                bench.everything = rng.random() < 0.5
                _killed_after(bench, instant)
                check(bench)
        with tally.case("two controllers"):
            _two_controllers(next(benches))
        for blocks in ROOMS:
            with tally.case(f"a disk with room for {blocks} blocks"):
                _full_disk(settings.scratch, blocks)
        with tally.case("a read-only disk"):
            _read_only_disk(settings.scratch)
        for number in range(min(REAL_RUNS, settings.count or REAL_RUNS)):
            instant = rng.uniform(0, REAL_RUN_LENGTH)
            with tally.case(f"a run in QEMU {number}: killed after {instant:.1f} s"):
                _killed_in_qemu(settings, settings.scratch / f"qemu-{number}", instant)


def _benches(scratch: Path) -> Iterator[Bench]:
    number = 0
    while True:
        folder = scratch / f"bench-{number}"
        folder.mkdir()
        yield Bench(folder)
        number += 1


def _killed_at(bench: Bench, point: str, everything: bool, check: Check) -> None:
    bench.everything = everything
    kill_in_a_run(bench, bench.machine(fault=FaultAt(point, kill)))
    check(bench)


def _failed_at(bench: Bench, point: str, everything: bool, act: Callable[[], None]) -> None:
    bench.everything = everything
    check_aftermath(bench, bench.graft(bench.machine(fault=FaultAt(point, act))))


def _recover(bench: Bench) -> None:
    """Recover; the configuration is the captured one, or that of a guest known to be grafted."""
    if bench.unfinished():
        check_recovery(bench)
    _check_third_state(bench)


def _run_again(bench: Bench) -> None:
    """Run again: it is completed, or names `recover` where the machine is on."""
    result = bench.graft(bench.machine())
    if result.exit_status == 3:
        assert "`bootgraft recover " in result.message, result.message
        check_recovery(bench)
        result = bench.graft(bench.machine())
    assert result.exit_status == 0, result.message
    assert bench.machine().configuration == GRAFTED_CONFIGURATION
    _check_third_state(bench)


def _recover_killed_too(rng: random.Random) -> Check:
    """Recover, be killed in that, too, and recover for good."""

    def recover_killed_too(bench: Bench) -> None:
        if bench.unfinished():
            point = rng.choice(("turn_off", "detach", "detach, half done", "detach, done", "state"))
            machine = bench.machine(fault=FaultAt(point, kill))
            _in_a_process(lambda: run_recover(bench.setup(machine)), None)
        _recover(bench)

    return recover_killed_too


def _check_third_state(bench: Bench) -> None:
    machine = bench.machine()
    assert machine.state() == "off"
    assert not bench.unfinished()
    assert machine.configuration in (CONFIGURATION, GRAFTED_CONFIGURATION)
    assert machine.uploads == []


def _in_a_process(work: Callable[[], object], killed_after: float | None) -> float:
    """Do something in a process of its own, killed after some seconds; give how long it took."""
    started = time.monotonic()
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(JOIN_TIMEOUT if killed_after is None else killed_after)
    process.kill()
    process.join(JOIN_TIMEOUT)
    return time.monotonic() - started


def _length_of_a_run(bench: Bench) -> float:
    return _in_a_process(lambda: bench.graft(bench.machine()), None)


def _killed_after(bench: Bench, seconds: float) -> None:
    _in_a_process(lambda: bench.graft(bench.machine()), seconds)


def _two_controllers(bench: Bench) -> None:
    """The second is refused in words while the first works, and does it no harm."""
    said: list[str] = []

    def second(request: str) -> None:
        if request == "apply":
            other = SimulatedMachine(bench.machine().file)
            try:
                bench.graft(other)
            except BootgraftError as error:
                said.append(str(error))

    result = bench.graft(bench.machine(Guest(at_request=second)))
    assert result.exit_status == 0, result.message
    assert len(said) == 1
    assert f"another bootgraft (process {os.getpid()})" in said[0]
    _check_third_state(bench)


def _full_disk(scratch: Path, blocks: int) -> None:
    """The records lie on a disk with little room: the run says so, or comes to its end."""
    with _mounted(scratch / f"full-{blocks}", "-t", "tmpfs", "-o", "size=1m", "tmpfs") as folder:
        bench = Bench(folder)
        machine = bench.machine()
        filler = folder / "filler"
        room = os.statvfs(folder)
        filler.write_bytes(bytes((room.f_bavail - blocks) * room.f_frsize))
        bench.folder = scratch / f"machine-{blocks}"  # the machine's own file has its own disk
        bench.folder.mkdir()
        machine = bench.machine()
        status, told = _graft(bench, machine)
        assert status == 0 or "No space left" in told, told
        if status is None:
            assert machine.configuration == CONFIGURATION
            assert not bench.unfinished()
        filler.unlink()
        if bench.unfinished():
            check_recovery(bench)
        _check_third_state(bench)


def _read_only_disk(scratch: Path) -> None:
    """Nothing is begun that could not be recorded."""
    own = scratch / "read-only"
    own.mkdir()
    bench = Bench(own)
    machine = bench.machine()
    records = own / "state"
    records.mkdir()
    with _mounted(records, "-o", "bind", str(records)):
        run(["mount", "-o", "remount,bind,ro", records])
        status, told = _graft(bench, machine)
    assert status != 0
    assert "Read-only file system" in told, told
    assert machine.configuration == CONFIGURATION
    assert "attach" not in machine.calls
    _check_third_state(bench)


def _graft(bench: Bench, machine: SimulatedMachine) -> tuple[int | None, str]:
    """Run; give the exit status, None where the run did not begin, and all that was said."""
    try:
        result = bench.graft(machine)
    except (OSError, BootgraftError) as error:
        return None, str(error)
    return result.exit_status, " ".join([result.message, *result.warnings])


def _killed_in_qemu(settings: Settings, folder: Path, instant: float) -> None:
    """Kill the command in a real run; recover the machine, then run again to the end."""
    folder.mkdir()
    payload = build_payload(folder)
    with tempfile.TemporaryDirectory(prefix="bg") as runtime:
        bench = RealBench(folder, Path(runtime), settings.iso)
        convert_to_vhd(build_small_appliance(folder).path, bench.disk, "dynamic")
        command = ("run", bench.vm, "--payload", payload, "--expect", BOOTED.removeprefix("^"))
        with bench.start(*command) as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=instant)
            process.kill()
        recovered = bench.bootgraft("recover")
        assert recovered.status == 0, recovered.text
        assert bench.leftovers() == []
        assert bench.vm.read_text() in (VM_TOML, _LEGACY_VM_TOML)
        again = bench.bootgraft(*command)
        assert again.status == 0, again.text
        assert bench.vm.read_text() == _LEGACY_VM_TOML


@contextlib.contextmanager
def _mounted(place: Path, *arguments: str) -> Iterator[Path]:
    """Mount something; needs root."""
    place.mkdir(exist_ok=True)
    run(["mount", *arguments, place])
    try:
        yield place
    finally:
        run(["umount", place])
