"""The modelled host's rules for COM1's pipe, and the agent that answers on it."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from host.simulated import MARKER, Guest
from hyperv.direct import DirectRunner
from hyperv.line_power import LinePower
from hyperv.model import SimulatedHost
from hyperv.pipes import PIPE_BUSY, Connection, PipeError
from hyperv.power import AgentPower
from hyperv.scripting import change, slot
from hyperv.vm import Vm

PIPE = "\\\\.\\pipe\\bootgraft-test"
NAME = "bootgraft-test"
ISO = "C:\\ISOs\\live.iso"
DEADLINE = 10.0


@pytest.fixture
def host(tmp_path: Path) -> Iterator[SimulatedHost]:
    host = SimulatedHost(tmp_path)
    host.files.put(ISO, b"live")
    yield host
    for vm in host.sorted_vms():
        if vm.plain_state not in ("Off", "Saved"):
            vm.turn_off()


@pytest.fixture
def runner(host: SimulatedHost) -> DirectRunner:
    return DirectRunner(host)


@pytest.fixture
def power() -> LinePower:
    return LinePower()


@pytest.fixture
def vm(host: SimulatedHost, power: LinePower) -> Vm:
    """A machine whose COM1 leads to a pipe."""
    vm = host.add_vm("appliance", power=power)
    vm.com_ports[0].path = PIPE
    return vm


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def receive(client: Connection, size: int) -> bytes:
    data = b""
    while len(data) < size:
        got = client.read(4096)
        if not got:
            break
        data += got
    return data


def test_the_pipe_exists_while_the_machine_runs(host: SimulatedHost, vm: Vm) -> None:
    assert host.pipes.find(NAME) is None
    vm.start()
    assert host.pipes.names() == [NAME]
    vm.turn_off()
    assert host.pipes.names() == []
    with pytest.raises(TimeoutError):
        host.pipes.connect(NAME, 0.05)


def test_a_port_that_leads_nowhere_has_no_pipe(host: SimulatedHost, vm: Vm) -> None:
    vm.com_ports[0].path = ""
    vm.start()
    assert host.pipes.names() == []


def test_bytes_go_both_ways(host: SimulatedHost, vm: Vm, power: LinePower) -> None:
    vm.start()
    client = host.pipes.connect(NAME.upper(), 1)
    power.line.sendall(b"hello")
    assert receive(client, 5) == b"hello"
    client.write(b"answer")
    assert power.line.recv(100) == b"answer"


def test_output_without_a_client_is_lost(host: SimulatedHost, vm: Vm, power: LinePower) -> None:
    vm.start()
    power.line.sendall(b"x" * 1_000_000)  # nobody is held up
    time.sleep(0.05)
    client = host.pipes.connect(NAME, 1)
    power.line.sendall(b"heard")
    assert receive(client, 5) == b"heard"


def test_a_client_that_does_not_read_holds_the_guest_up(
    host: SimulatedHost, vm: Vm, power: LinePower
) -> None:
    vm.start()
    client = host.pipes.connect(NAME, 1)
    power.line.setblocking(False)
    sent = 0
    try:
        while sent < 10_000_000:
            sent += power.line.send(b"x" * 65536)
            time.sleep(0.005)
    except BlockingIOError:
        pass
    assert sent < 10_000_000
    assert receive(client, sent) == b"x" * sent


def test_a_second_client_finds_the_pipe_busy(host: SimulatedHost, vm: Vm) -> None:
    vm.start()
    first = host.pipes.connect(NAME, 1)
    pipe = host.pipes.find(NAME)
    assert pipe is not None
    with pytest.raises(PipeError) as caught:
        pipe.connect()
    assert caught.value.number == PIPE_BUSY
    with pytest.raises(TimeoutError):
        host.pipes.connect(NAME, 0.05)
    first.close()
    host.pipes.connect(NAME, 1)


def test_turning_off_ends_the_clients_handle(host: SimulatedHost, vm: Vm, power: LinePower) -> None:
    vm.start()
    client = host.pipes.connect(NAME, 1)
    power.line.sendall(b"last words")
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(receive(client, 1000)))
    reader.start()
    vm.turn_off()
    reader.join(DEADLINE)
    assert received == [b"last words"]
    with pytest.raises(PipeError):
        client.write(b"too late")


def test_a_reset_disconnects_and_the_pipe_stays(
    host: SimulatedHost, vm: Vm, power: LinePower
) -> None:
    vm.start()
    client = host.pipes.connect(NAME, 1)
    vm.reset()
    assert client.read(10) == b""
    assert power.resets == 1
    again = host.pipes.connect(NAME, 1)
    power.line.sendall(b"anew")
    assert receive(again, 4) == b"anew"


def test_a_pipe_that_exists_at_the_start_is_answered_by_a_stranger(
    host: SimulatedHost, vm: Vm, power: LinePower
) -> None:
    stranger = host.pipes.create(NAME)
    vm.start()
    assert vm.com1_answered_by_stranger
    power.line.sendall(b"secret")
    client = stranger.wait_client()
    assert client is not None
    assert client.server_read(100) == b"secret"
    client.server_write(b"fake")
    assert power.line.recv(100) == b"fake"
    stranger.close()
    vm.turn_off()
    vm.start()
    assert not vm.com1_answered_by_stranger


# The scripted agent.


def test_the_agent_answers_where_the_firmware_boots_the_live_iso(host: SimulatedHost) -> None:
    power = AgentPower()
    vm = host.add_vm("appliance", power=power)
    vm.com_ports[0].path = PIPE
    change(host, vm, Insert=[slot(1, 0, Path=ISO)])
    vm.start()
    client = host.pipes.connect(NAME, 1)
    assert b"SeaBIOS" in receive(client, 20)
    vm.turn_off()
    change(host, vm, Bios=[{"StartupOrder": ["IDE", "CD", "LegacyNetworkAdapter", "Floppy"]}])
    vm.start()
    client = host.pipes.connect(NAME, 1)
    assert receive(client, 10) == b"Error 13\r\n"
    assert power.boots == ["live", "disk"]


def test_a_grafted_guest_boots_and_is_well(host: SimulatedHost, runner: DirectRunner) -> None:
    power = AgentPower(Guest(heartbeats=[None, "OkApplicationsUnknown"]))
    power.disk["grafted_by"] = "run 1"
    vm = host.add_vm("appliance", power=power)
    vm.com_ports[0].path = PIPE
    vm.start()
    assert vm.read("Heartbeat") is not None
    (answer,) = runner.run("state", {"Id": str(vm.id)})
    assert answer["Heartbeat"] == "OkApplicationsUnknown"
    client = host.pipes.connect(NAME, 1)
    assert MARKER.encode() in receive(client, len(power.guest.console))
    client.write(b"stray")
    wait_for(lambda: not client.to_server)
    time.sleep(0.05)
    vm.turn_off()
    assert power.heard_by_guest == b"stray"


def test_a_power_off_by_the_agent_is_seen(host: SimulatedHost) -> None:
    vm = host.add_vm("appliance", power=AgentPower(Guest(off_at_boot=True)))
    vm.start()
    wait_for(lambda: vm.plain_state == "Off")
