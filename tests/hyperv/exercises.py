"""Each script, used as the host side uses it, and what must come of it; quick, and in-process.

The sessions of these hosts ask before every change unless they are told not to: a script that does
not tell them fails, as nobody can answer in a remote session.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from bootgraft_agent.wire import JSON
from bootgraft_host.hyperv.description import Slot
from bootgraft_host.hyperv.doctor import examine_host
from bootgraft_host.hyperv.host_files import ask, read_range
from bootgraft_host.hyperv.relay import Relay
from bootgraft_host.hyperv.scratch import make_scratch
from bootgraft_host.hyperv.thumbnail import take_thumbnail
from bootgraft_host.hyperv.upload import remove_uploads, upload_isos, verify_again
from bootgraft_host.hyperv.vm import Vm as HostVm
from bootgraft_host.hyperv.vm import find_vms
from hyperv.adapters import Nic
from hyperv.direct import DirectRunner
from hyperv.enums import ON_OFF
from hyperv.hardware import Disk, Dvd
from hyperv.machines import ISO, LIVE, MEDIA, OWN_ISO, PAYLOAD, machine_of, make_host
from hyperv.model import SimulatedHost
from hyperv.scripting import change, slot
from hyperv.test_thumbnail import PicturePower
from hyperv.vm import Vm

Exercise = Callable[[Path], None]

PIPE = "bootgraft-exercise"
SLOTS = ((0, 1), (1, 0), (1, 1))


def make_hosts(folder: Path) -> SimulatedHost:
    """A host with a machine that nobody may touch."""
    host = make_host(folder)
    host.confirm_preference = "Low"
    host.add_vm(
        "another",
        hard_drives=["C:\\another.vhdx"],
        dvd_drives=[Dvd(*each, OWN_ISO) for each in SLOTS],
        adapters=[
            Nic("another", mac="00155D0A0001"),
            Nic("another", legacy=True, mac="00155D0A0002", vlan=9),
        ],
        notes="another's",
    ).take_checkpoint("another's")
    return host


def add_vm(host: SimulatedHost) -> Vm:
    """A machine that has something of everything, each on its own."""
    vm = host.add_vm(
        "appliance",
        hard_drives=[Disk("C:\\own.vhdx")],
        dvd_drives=[Dvd(*each, OWN_ISO) for each in SLOTS],
        adapters=[Nic("one", mac="00155D0A0B0C", vlan=7), Nic("two", switch="Backup")],
        notes="keep",
    )
    vm.com_ports[1].path = "\\\\.\\pipe\\second"
    return vm


def media(vm: Vm) -> dict[tuple[int, int], str | None]:
    return {(drive.number, drive.location): drive.path for drive in vm.dvd_drives}


def another_is_untouched(exercise: Callable[[SimulatedHost], None]) -> Exercise:
    """Have the exercise on a host, and look at the other machine afterwards."""

    def run(folder: Path) -> None:
        host = make_hosts(folder)
        another = host.find_vm("another")
        before = host.describe(another)
        exercise(host)
        assert host.describe(another) == before

    return run


# Reading.


def find(host: SimulatedHost) -> None:
    add_vm(host).start()
    found = {(vm.name, vm.generation, vm.state) for vm in find_vms(DirectRunner(host))}
    assert found == {("another", 1, "Off"), ("appliance", 1, "Running")}


def describe(host: SimulatedHost) -> None:
    vm = add_vm(host)
    vm.take_checkpoint("mine")
    found = HostVm(DirectRunner(host), str(vm.id)).describe()
    assert (found.name, found.notes, found.state) == ("appliance", "keep", "Off")
    assert found.startup_order == ("CD", "IDE", "LegacyNetworkAdapter", "Floppy")
    assert {drive.slot: drive.path for drive in found.dvd_drives} == {
        Slot(*each): OWN_ISO for each in SLOTS
    }
    (drive,) = found.hard_drives
    assert drive.path.startswith("C:\\own_")
    assert [port.path for port in found.com_ports] == ["", "\\\\.\\pipe\\second"]
    names = [(adapter.name, adapter.switch_name) for adapter in found.network_adapters]
    assert names == [("one", "LAN"), ("two", "Backup")]
    assert [adapter.vlan[0].access_vlan_id for adapter in found.network_adapters] == [7, 0]
    assert [adapter.allow_teaming for adapter in found.network_adapters] == ["Off", "Off"]
    assert [checkpoint.name for checkpoint in found.checkpoints] == ["mine"]
    assert found.automatic_checkpoints_enabled is False


def state(host: SimulatedHost) -> None:
    vm = add_vm(host)
    vm.guest_heartbeat = "OkApplicationsHealthy"
    vm.start()
    found = HostVm(DirectRunner(host), str(vm.id)).read_state()
    assert (found.state, found.heartbeat) == ("Running", "OkApplicationsHealthy")


def screenshot(host: SimulatedHost) -> None:
    vm = add_vm(host)
    vm.power = PicturePower((800, 600))
    other = host.find_vm("another")
    other.power = PicturePower((640, 480))
    vm.take_checkpoint("mine")
    other.start()
    vm.start()
    path = host.files.locate("C:\\picture.png")
    take_thumbnail(DirectRunner(host), str(vm.id), path)
    with Image.open(path) as image:
        assert image.size == (800, 600)
        assert image.getpixel((0, 0)) == (255, 0, 0)
    other.turn_off()


# Changing.


def attach_and_detach(host: SimulatedHost) -> None:
    vm = add_vm(host)
    vm.automatic_checkpoints = True
    before = host.describe(vm)
    machine = machine_of(vm)
    captured = machine.capture()
    machine.attach(MEDIA)
    assert media(vm) == {(0, 1): LIVE, (1, 0): PAYLOAD, (1, 1): OWN_ISO}
    assert vm.com_ports[0].path == captured["pipe"]
    assert (vm.start_action.name, vm.stop_action.name) == ("Nothing", "TurnOff")
    assert vm.notes.startswith("keep\r\n[bootgraft:")
    assert not vm.automatic_checkpoints
    machine.detach(captured, keep_adapter=False)
    assert host.describe(vm) == before


def replace_adapters(host: SimulatedHost) -> None:
    vm = add_vm(host)
    security = dict.fromkeys(vm.adapters[0].security, ON_OFF.value("On"))
    vm.adapters[0].security.update(security)
    vm.adapters[0].cluster_monitored = False
    vm.adapters[0].storm_limit, vm.adapters[0].dynamic_ip_address_limit = 5, 6
    machine = machine_of(vm)
    captured = machine.capture()
    machine.attach(MEDIA)
    machine.detach(captured, keep_adapter=True)
    one, two = vm.adapters
    assert (one.legacy, two.legacy) == (True, True)
    assert (one.name, one.mac, one.vlan.access) == ("one", "00155D0A0B0C", 7)
    assert one.switch is not None
    assert (one.switch.name, one.security) == ("LAN", security)
    assert (one.storm_limit, one.dynamic_ip_address_limit) == (5, 6)
    assert (one.cluster_monitored, two.cluster_monitored) == (False, True)
    assert two.switch is not None
    assert (two.name, two.switch.name, two.dynamic_mac) == ("two", "Backup", True)


def change_one_drive(host: SimulatedHost) -> None:
    vm = add_vm(host)
    change(host, vm, EjectFrom=[slot(1, 1)])
    assert media(vm) == {(0, 1): OWN_ISO, (1, 0): OWN_ISO, (1, 1): None}
    change(host, vm, Insert=[slot(1, 1, Path=OWN_ISO)], EjectFrom=[slot(1, 0)])
    assert media(vm) == {(0, 1): OWN_ISO, (1, 0): None, (1, 1): OWN_ISO}
    change(host, vm, Insert=[slot(1, 0, Path=LIVE)])
    assert media(vm) == {(0, 1): OWN_ISO, (1, 0): LIVE, (1, 1): OWN_ISO}
    change(host, vm, RemoveDvdDrives=[slot(1, 0)])
    assert media(vm) == {(0, 1): OWN_ISO, (1, 1): OWN_ISO}
    change(host, vm, RemoveDvdDrives=[slot(0, 1), slot(1, 1)])
    change(host, vm, AddDvdDrives=[slot(1, 1)])
    assert media(vm) == {(1, 1): None}


def change_startup_order(host: SimulatedHost) -> None:
    vm = add_vm(host)
    order: list[JSON] = ["Floppy", "LegacyNetworkAdapter", "IDE", "CD"]
    change(host, vm, Bios=[{"StartupOrder": order}], ComPorts=[{"Number": 2, "Path": None}])
    assert [device.name for device in vm.startup_order] == order
    assert [port.path for port in vm.com_ports] == ["", ""]


VLANS: Sequence[tuple[str, Mapping[str, Any]]] = (
    ("Access", {"VlanId": 7}),
    ("Trunk", {"NativeVlanId": 3, "AllowedVlanIdList": "5-9"}),
    ("Isolated", {"PrimaryVlanId": 4, "SecondaryVlanId": 5}),
    ("Community", {"PrimaryVlanId": 6, "SecondaryVlanId": 7}),
    ("Promiscuous", {"PrimaryVlanId": 8, "SecondaryVlanIdList": "2,3"}),
)
SET_LISTS = (
    *("StaticMacAddress", "Security", "AllowTeaming", "StormLimit", "DynamicIpAddressLimit"),
    *("NotMonitoredInCluster", "Connect", *(kind for kind, _ in VLANS)),
)


def change_vlans(host: SimulatedHost) -> None:
    vm = add_vm(host)
    one, two = vm.adapters
    theirs = two.vlan
    for kind, values in VLANS:
        lists: dict[str, JSON] = {name: [] for name in SET_LISTS}
        change(host, vm, SetAdapters=[{**lists, kind: [dict(values)], "Id": one.id}])
        assert kind in (one.vlan.mode, one.vlan.private)
        wanted = replace(
            one.vlan,
            access=values.get("VlanId", 0),
            native=values.get("NativeVlanId", 0),
            allowed=(5, 6, 7, 8, 9) if kind == "Trunk" else (),
            primary=values.get("PrimaryVlanId", 0),
            secondary=values.get("SecondaryVlanId", 0),
        )
        assert one.vlan == wanted
        assert (one.vlan.secondaries == (2, 3)) == (kind == "Promiscuous")
        assert two.vlan == theirs


def change_adapters(host: SimulatedHost) -> None:
    vm = add_vm(host)
    one, two = vm.adapters
    change(host, vm, AddAdapters=[{"Name": "three", "IsLegacy": True}])
    change(host, vm, RemoveAdapters=[two.id])
    assert [(each.name, each.legacy) for each in vm.adapters] == [("one", False), ("three", True)]
    lists: dict[str, JSON] = {name: [] for name in SET_LISTS}
    security: dict[str, JSON] = {
        "MacAddressSpoofing": "On",
        "DhcpGuard": "On",
        "RouterGuard": "On",
        "PortMirroring": "Source",
        "IeeePriorityTag": "On",
    }
    more: dict[str, JSON] = {"Security": [security], "AllowTeaming": ["On"], "Connect": ["Backup"]}
    change(host, vm, SetAdapters=[{**lists, **more, "Id": one.id}])
    assert [value.name for value in one.security.values()] == ["On"] * 5
    assert one.port_mirroring.name == "Source"
    assert one.switch is not None
    assert one.switch.name == "Backup"
    three = vm.adapters[1]
    assert three.switch is None
    assert {value.name for value in three.security.values()} == {"Off"}


def insert(host: SimulatedHost) -> None:
    vm = add_vm(host)
    vm.start()
    runner = HostVm(DirectRunner(host), str(vm.id))
    runner.insert(Slot(1, 1), LIVE)
    assert media(vm) == {(0, 1): OWN_ISO, (1, 0): OWN_ISO, (1, 1): LIVE}


def power(host: SimulatedHost) -> None:
    vm, other = add_vm(host), host.find_vm("another")
    machine = machine_of(vm)
    machine.capture()
    machine.start()
    assert (vm.state, other.state) == ("Running", "Off")
    other.start()
    machine.turn_off()
    assert (vm.state, other.state) == ("Off", "Running")
    other.turn_off()


def checkpoints(host: SimulatedHost) -> None:
    vm = add_vm(host)
    vm.take_checkpoint("theirs")
    machine = machine_of(vm)
    machine.take_checkpoint("mine")
    assert [each.name for each in vm.checkpoints] == ["theirs", "mine"]
    machine.remove_checkpoint("mine")
    assert [each.name for each in vm.checkpoints] == ["theirs"]


def try_scratch(host: SimulatedHost) -> None:
    before = len(host.vms)
    host.default_generation = 2
    runner = DirectRunner(host)
    made = make_scratch(runner)
    vm = host.find_vm(made.name)
    assert (vm.generation, vm.notes) == (1, made.notes)
    made.remove()
    asked: dict[str, JSON] = {"Name": "small", "Notes": "", "MemoryBytes": 64 << 20}
    ask(runner, "make-scratch", asked)
    small = host.find_vm("small")
    assert small.memory_mib == 64
    host.remove_vm(small)
    assert len(host.vms) == before


# Files and pipes.


def upload(host: SimulatedHost) -> None:
    vm = add_vm(host)
    runner = DirectRunner(host)
    iso = host.files.locate("E:\\there.iso")
    iso.parent.mkdir(parents=True)
    iso.write_bytes(ISO)
    uploaded = upload_isos(runner, None, str(vm.id), [iso], lambda _: None)
    found = host.files.find_file(uploaded[0].path)
    assert found is not None
    assert found.read_bytes() == ISO
    assert host.files.may_read(uploaded[0].path, vm.id)
    verify_again(runner, uploaded)
    remove_uploads(runner, None, str(vm.id))
    assert not found.exists()
    assert read_range(runner, LIVE, 0x8001, 5) == b"CD001"


def ask_doctor(host: SimulatedHost) -> None:
    checks = list(examine_host(DirectRunner(host), None))
    assert {check.verdict for check in checks} == {"ok"}
    assert len(checks) > 5


def reach_pipe(host: SimulatedHost) -> None:
    served = host.pipes.create(PIPE)
    asked: dict[str, JSON] = {"Server": ".", "Name": PIPE, "Milliseconds": 1}
    answer = ask(DirectRunner(host), "reach-pipe", asked)
    assert base64.b64decode(answer.text("Data")) == bytes(512)
    assert not answer.flag("Came")
    assert served.connection is None


def relay(host: SimulatedHost) -> None:
    served = host.pipes.create(PIPE)
    opened = Relay(DirectRunner(host), PIPE)
    opened.open()
    guest = served.connection
    assert guest is not None
    guest.server_write(b"hello")
    heard = b""
    for _ in range(50):
        heard += opened.exchange(limit=100).data
        if heard == b"hello":
            break
    assert heard == b"hello"
    runner = opened._runner
    runner.run("relay-close")
    assert served.connection is None
    runner.close()


EXERCISES: Mapping[str, Sequence[Exercise]] = {
    script: [another_is_untouched(exercise) for exercise in exercises]
    for script, exercises in {
        "change": (
            change_one_drive,
            change_startup_order,
            change_adapters,
            change_vlans,
            attach_and_detach,
            replace_adapters,
        ),
        "checkpoint": (checkpoints,),
        "describe": (describe,),
        "files": (upload,),
        "find": (find,),
        "folder": (upload,),
        "hash": (upload,),
        "host": (ask_doctor,),
        "insert": (insert,),
        "make-folder": (upload,),
        "make-scratch": (try_scratch,),
        "mark": (attach_and_detach,),
        "reach-pipe": (reach_pipe,),
        "read-file": (upload,),
        "relay-close": (relay,),
        "relay-exchange": (relay,),
        "relay-open": (relay,),
        "remove": (upload,),
        "remove-checkpoint": (checkpoints,),
        "remove-scratch": (try_scratch,),
        "rename": (upload,),
        "screenshot": (screenshot,),
        "start": (power,),
        "state": (state,),
        "try-pipe": (ask_doctor,),
        "turn-off": (power,),
        "write-block": (upload,),
    }.items()
}
