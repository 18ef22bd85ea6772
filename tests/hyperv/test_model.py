"""The modelled host's rules for machines, drives, the BIOS and COM ports."""

import uuid
from pathlib import Path

import pytest

from bootgraft_host.hyperv.runner import ScriptError
from hyperv.direct import DirectRunner
from hyperv.enums import HEARTBEAT, REPLICATION_STATE
from hyperv.hardware import Disk, Dvd
from hyperv.model import SimulatedHost
from hyperv.scripting import call, change, slot
from hyperv.values import PowerShellError
from hyperv.vm import Vm

ISO = "C:\\ISOs\\live.iso"
INVALID_STATE = "InvalidState,Microsoft.HyperV.PowerShell.Commands"


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    host = SimulatedHost(tmp_path)
    host.files.put(ISO, b"live")
    host.files.put("C:\\ISOs\\payload.iso", b"payload")
    return host


@pytest.fixture
def runner(host: SimulatedHost) -> DirectRunner:
    return DirectRunner(host)


@pytest.fixture
def vm(host: SimulatedHost) -> Vm:
    return host.add_vm("appliance")


def asked(vm: Vm) -> dict[str, str]:
    return {"Id": str(vm.id)}


def slots(host: SimulatedHost, vm: Vm) -> list[tuple[int, int, str | None]]:
    return [
        (each["ControllerNumber"], each["ControllerLocation"], each["Path"])
        for each in host.describe(vm)["DvdDrives"]
    ]


# Machines.


def test_names_repeat_and_find_lists_all_of_them(host: SimulatedHost, runner: DirectRunner) -> None:
    first, second = host.add_vm("web"), host.add_vm("Web")
    host.add_vm("other", generation=2, dvd_drives=())
    found = [(each["Name"], each["Generation"]) for each in runner.run("find")]
    assert found == [("other", 2), ("web", 1), ("Web", 1)]
    assert call(host, "Get-VM", Name=["web"]) == [first, second]


def test_names_are_patterns(host: SimulatedHost) -> None:
    one, two, brackets = (host.add_vm(name) for name in ("web1", "web2", "web[1]"))
    assert call(host, "Get-VM", Name=["web?"]) == [one, two]
    assert call(host, "Get-VM", Name=["web[12]"]) == [one, two]
    assert call(host, "Get-VM", Name=["web`[1`]"]) == [brackets]
    assert call(host, "Get-VM", Name=["nothing*"]) == []


def test_a_name_that_nobody_has_is_an_error(host: SimulatedHost) -> None:
    with pytest.raises(PowerShellError, match='with name "nobody"') as caught:
        call(host, "Get-VM", Name=["nobody"])
    assert caught.value.error_id == "InvalidParameter,Microsoft.HyperV.PowerShell.Commands.GetVM"
    assert caught.value.category == "InvalidArgument"


def test_an_unknown_id_is_an_object_not_found(runner: DirectRunner) -> None:
    with pytest.raises(ScriptError, match="unable to find a virtual machine") as caught:
        runner.run("state", {"Id": str(uuid.uuid4())})
    assert caught.value.error_id == "ObjectNotFound,Microsoft.HyperV.PowerShell.Commands.GetVM"
    assert caught.value.category == "ObjectNotFound"


def test_a_removed_machine_is_not_found(host: SimulatedHost, runner: DirectRunner, vm: Vm) -> None:
    call(host, "Remove-VM", VM=[vm], Force=True)
    with pytest.raises(ScriptError) as caught:
        runner.run("describe", {**asked(vm), "WithBios": True})
    assert caught.value.category == "ObjectNotFound"
    with pytest.raises(PowerShellError, match="does not exist any more"):
        call(host, "Set-VM", VM=[vm], Notes="late")


def test_a_running_machine_cannot_be_removed(host: SimulatedHost, vm: Vm) -> None:
    vm.start()
    with pytest.raises(PowerShellError) as caught:
        call(host, "Remove-VM", VM=[vm], Force=True)
    assert caught.value.error_id == f"{INVALID_STATE}.RemoveVM"


def test_exactly_one_parameter_set_must_fit(host: SimulatedHost, vm: Vm) -> None:
    with pytest.raises(PowerShellError) as caught:
        call(host, "Get-VMBios", VM=[vm], VMName=["appliance"])
    assert caught.value.error_id.startswith("AmbiguousParameterSet,")
    with pytest.raises(PowerShellError, match="Parameter set"):
        call(host, "Set-VMDvdDrive", VMDvdDrive=vm.dvd_drives, ControllerNumber=1, Path=None)


def test_what_the_model_does_nothing_with_is_an_error(host: SimulatedHost, vm: Vm) -> None:
    with pytest.raises(PowerShellError, match="not modelled"):
        call(host, "Set-VM", VM=[vm], ProcessorCount=2)


def test_a_question_to_nobody_is_an_error(host: SimulatedHost, vm: Vm) -> None:
    with pytest.raises(PowerShellError, match="NonInteractive"):
        call(host, "Set-VM", VM=[vm], Notes="x", Confirm=True)


def test_an_older_host_lacks_properties_and_parameters(tmp_path: Path) -> None:
    old = SimulatedHost(tmp_path, windows="2016")
    vm = old.add_vm("appliance")
    description = old.describe(vm)
    assert description["AutomaticCheckpointsEnabled"] is None
    assert description["CheckpointType"] == "Production"
    with pytest.raises(ScriptError) as caught:
        change(old, vm, AutomaticCheckpoints=[{"Enabled": False}])
    assert caught.value.error_id.startswith("NamedParameterNotFound,")


def test_the_oldest_host_lacks_more(tmp_path: Path) -> None:
    old = SimulatedHost(tmp_path, windows="2012R2")
    description = old.describe(old.add_vm("appliance"))
    assert description["CheckpointType"] == ""
    assert description["ComPorts"][0]["DebuggerMode"] == ""
    assert description["NetworkAdapters"][0]["DeviceNaming"] == ""


def test_notes_and_automatic_actions_change_in_any_state(host: SimulatedHost, vm: Vm) -> None:
    vm.start()
    call(host, "Set-VM", VM=[vm], Notes="line\r\nline 'two'")
    change(host, vm, AutomaticActions=[{"Start": "Nothing", "Stop": "TurnOff"}])
    change(host, vm, AutomaticCheckpoints=[{"Enabled": True}])
    description = host.describe(vm)
    assert description["Notes"] == "line\r\nline 'two'"
    assert description["AutomaticStartAction"] == "Nothing"
    assert description["AutomaticStopAction"] == "TurnOff"
    assert description["AutomaticCheckpointsEnabled"] is True


def test_unknown_enumeration_values_are_refused(host: SimulatedHost, vm: Vm) -> None:
    with pytest.raises(ScriptError) as caught:
        change(host, vm, AutomaticActions=[{"Start": "Never", "Stop": "TurnOff"}])
    assert caught.value.error_id.startswith("CannotConvertArgumentNoMessage,")


def test_what_a_machine_tells_of_itself(host: SimulatedHost, runner: DirectRunner) -> None:
    vm = host.add_vm(
        "appliance",
        clustered=True,
        replication=REPLICATION_STATE.value("Replicating"),
        critical=True,
        guest_heartbeat="OkApplicationsHealthy",
    )
    description = host.describe(vm)
    assert description["IsClustered"] is True
    assert description["ReplicationState"] == "Replicating"
    assert description["State"] == "OffCritical"
    assert vm.read("Heartbeat") is None
    vm.critical = False
    vm.start()
    (state,) = runner.run("state", asked(vm))
    assert (state["State"], state["Heartbeat"]) == ("Running", "OkApplicationsHealthy")
    assert vm.read("heartbeat") == HEARTBEAT.value("OkApplicationsHealthy")


# Drives.


def test_there_are_two_ide_controllers_of_two_locations(host: SimulatedHost) -> None:
    vm = host.add_vm("full", hard_drives=["C:\\VMs\\a.vhdx", "C:\\VMs\\b.vhdx"])
    assert [drive.slot[1:] for drive in vm.hard_drives] == [(0, 0), (0, 1)]
    call(host, "Add-VMDvdDrive", VM=[vm])
    assert slots(host, vm) == [(1, 0, None), (1, 1, None)]
    with pytest.raises(PowerShellError, match="vacant location") as caught:
        call(host, "Add-VMDvdDrive", VM=[vm])
    assert caught.value.category == "ObjectNotFound"


@pytest.mark.parametrize("place", [(1, 0), (0, 0), (0, 2), (2, 0)])
def test_a_taken_or_unknown_slot_is_refused(
    host: SimulatedHost, vm: Vm, place: tuple[int, int]
) -> None:
    with pytest.raises(ScriptError, match="vacant location"):
        change(host, vm, AddDvdDrives=[slot(*place)])
    assert slots(host, vm) == [(1, 0, None)]


def test_drives_come_and_go_while_the_machine_is_off(host: SimulatedHost, vm: Vm) -> None:
    change(host, vm, AddDvdDrives=[slot(0, 1)])
    assert slots(host, vm) == [(0, 1, None), (1, 0, None)]
    change(host, vm, RemoveDvdDrives=[slot(1, 0)])
    assert slots(host, vm) == [(0, 1, None)]


@pytest.mark.parametrize(
    "wanted", [{"AddDvdDrives": [slot(1, 1)]}, {"RemoveDvdDrives": [slot(1, 0)]}]
)
def test_a_running_machine_keeps_its_ide_drives(
    host: SimulatedHost, vm: Vm, wanted: dict[str, list[dict[str, int]]]
) -> None:
    vm.start()
    with pytest.raises(ScriptError, match="0x8004100C") as caught:
        change(host, vm, **wanted)
    assert caught.value.error_id.startswith(INVALID_STATE)
    assert slots(host, vm) == [(1, 0, None)]


def test_removing_from_an_empty_slot_is_refused(host: SimulatedHost, vm: Vm) -> None:
    with pytest.raises(ScriptError) as caught:
        change(host, vm, RemoveDvdDrives=[slot(0, 1)])
    assert caught.value.error_id.startswith("ParameterArgumentValidationError,")


def test_a_drive_can_be_added_with_its_iso(host: SimulatedHost, vm: Vm) -> None:
    call(host, "Add-VMDvdDrive", VM=[vm], Path=ISO)
    assert slots(host, vm) == [(0, 1, ISO), (1, 0, None)]


def test_generation_2_has_its_drives_on_scsi(host: SimulatedHost) -> None:
    vm = host.add_vm("new", generation=2, dvd_drives=[Dvd(0, 1)])
    (drive,) = host.describe(vm)["DvdDrives"]
    assert (drive["ControllerType"], drive["ControllerLocation"]) == ("SCSI", 1)
    vm.start()
    call(host, "Add-VMDvdDrive", VM=[vm])
    assert len(vm.dvd_drives) == 2


def test_media_change_also_while_the_machine_runs(
    host: SimulatedHost, runner: DirectRunner, vm: Vm
) -> None:
    change(host, vm, Insert=[slot(1, 0, Path=ISO)])
    (drive,) = host.describe(vm)["DvdDrives"]
    assert (drive["Path"], drive["DvdMediaType"], drive["PoolName"]) == (ISO, "ISO", "Primordial")
    vm.start()
    runner.run("insert", {**asked(vm), **slot(1, 0, Path="C:\\ISOs\\payload.iso")})
    assert slots(host, vm) == [(1, 0, "C:\\ISOs\\payload.iso")]
    runner.run("insert", {**asked(vm), **slot(1, 0, Path=None)})
    (drive,) = host.describe(vm)["DvdDrives"]
    assert (drive["Path"], drive["DvdMediaType"]) == (None, "None")


def test_eject_leaves_the_drive_empty(host: SimulatedHost, vm: Vm) -> None:
    change(host, vm, Insert=[slot(1, 0, Path=ISO)])
    change(host, vm, EjectFrom=[slot(1, 0)])
    assert slots(host, vm) == [(1, 0, None)]


def test_set_dvd_drive_by_name_alone_means_all_drives(host: SimulatedHost, vm: Vm) -> None:
    call(host, "Add-VMDvdDrive", VM=[vm])
    call(host, "Set-VMDvdDrive", VMName=["appliance"], Path=ISO)
    assert [path for _, _, path in slots(host, vm)] == [ISO, ISO]
    call(host, "Set-VMDvdDrive", VMName=["appliance"])
    assert [path for _, _, path in slots(host, vm)] == [ISO, ISO]


def test_a_missing_iso_is_refused(host: SimulatedHost, vm: Vm) -> None:
    with pytest.raises(ScriptError, match=r"gone\.iso' not found") as caught:
        change(host, vm, Insert=[slot(1, 0, Path="C:\\ISOs\\gone.iso")])
    assert caught.value.category == "ObjectNotFound"


def test_an_iso_that_the_machine_may_not_read_is_refused(host: SimulatedHost, vm: Vm) -> None:
    host.files.secure(ISO, "O:BAD:P(A;;FA;;;BA)(A;;FA;;;SY)")
    with pytest.raises(ScriptError, match="0x80070005") as caught:
        change(host, vm, Insert=[slot(1, 0, Path=ISO)])
    assert (
        caught.value.error_id == "AccessDenied,Microsoft.HyperV.PowerShell.Commands.SetVMDvdDrive"
    )
    assert caught.value.category == "PermissionDenied"


@pytest.mark.parametrize("path", ["C:\\ISOs\\live.img", "live", "\\\\server\\share\\live.vhd"])
def test_what_is_no_iso_by_its_name_is_refused(host: SimulatedHost, vm: Vm, path: str) -> None:
    with pytest.raises(ScriptError) as caught:
        change(host, vm, Insert=[slot(1, 0, Path=path)])
    assert caught.value.error_id.startswith("InvalidParameter,")


def test_a_clustered_machine_takes_only_what_its_cluster_sees(host: SimulatedHost) -> None:
    vm = host.add_vm("clustered", clustered=True)
    shared = host.files.put("C:\\ClusterStorage\\Volume1\\live.iso")
    with pytest.raises(ScriptError, match="cluster"):
        change(host, vm, Insert=[slot(1, 0, Path=ISO)])
    change(host, vm, Insert=[slot(1, 0, Path=shared)])
    assert slots(host, vm) == [(1, 0, shared)]


def test_hard_drives_are_described_on_both_kinds_of_controller(host: SimulatedHost) -> None:
    disks = [Disk("C:\\VMs\\a.vhd"), Disk("C:\\VMs\\b.vhdx", 0, 3, "SCSI")]
    vm = host.add_vm("appliance", hard_drives=disks)
    described = [
        (each["ControllerType"], each["ControllerLocation"], each["Path"])
        for each in host.describe(vm)["HardDrives"]
    ]
    assert described == [("IDE", 0, "C:\\VMs\\a.vhd"), ("SCSI", 3, "C:\\VMs\\b.vhdx")]


# BIOS.


def test_the_startup_order_is_set_while_the_machine_is_off(host: SimulatedHost, vm: Vm) -> None:
    order = ["IDE", "CD", "LegacyNetworkAdapter", "Floppy"]
    change(host, vm, Bios=[{"StartupOrder": order}])
    (bios,) = host.describe(vm)["Bios"]
    assert bios == {"StartupOrder": order, "NumLockEnabled": False}
    vm.start()
    with pytest.raises(ScriptError) as caught:
        change(host, vm, Bios=[{"StartupOrder": order}])
    assert caught.value.error_id == f"{INVALID_STATE}.SetVMBios"


@pytest.mark.parametrize(
    "order",
    [
        ["CD"],
        ["CD", "CD", "IDE", "Floppy"],
        ["CD", "VHD", "NetworkAdapter", "Floppy"],
        ["CD", "IDE", "LegacyNetworkAdapter", "Floppy", "CD"],
    ],
)
def test_the_startup_order_names_four_devices_once(
    host: SimulatedHost, vm: Vm, order: list[str]
) -> None:
    with pytest.raises(ScriptError) as caught:
        change(host, vm, Bios=[{"StartupOrder": order}])
    assert caught.value.error_id.startswith("InvalidParameter,")


def test_startup_devices_have_the_numbers_of_the_module(host: SimulatedHost, vm: Vm) -> None:
    numbers = {each.name: each.number for each in vm.startup_order}
    assert numbers == {"CD": 1, "IDE": 2, "LegacyNetworkAdapter": 3, "Floppy": 0}


def test_generation_2_has_no_bios(host: SimulatedHost, runner: DirectRunner) -> None:
    vm = host.add_vm("new", generation=2)
    assert host.describe(vm)["Bios"] == []
    with pytest.raises(ScriptError, match="generation 2"):
        runner.run("describe", {**asked(vm), "WithBios": True})


# COM ports.


def test_a_com_port_is_set_and_cleared_while_the_machine_is_off(
    host: SimulatedHost, vm: Vm
) -> None:
    path = "\\\\.\\pipe\\bootgraft-1"
    change(host, vm, ComPorts=[{"Number": 2, "Path": path}])
    described = [(each["Number"], each["Path"]) for each in host.describe(vm)["ComPorts"]]
    assert described == [(1, ""), (2, path)]
    for empty in ("", None):
        change(host, vm, ComPorts=[{"Number": 2, "Path": empty}])
        assert host.describe(vm)["ComPorts"][1]["Path"] == ""
    vm.start()
    with pytest.raises(ScriptError) as caught:
        change(host, vm, ComPorts=[{"Number": 1, "Path": path}])
    assert caught.value.error_id == f"{INVALID_STATE}.SetVMComPort"


@pytest.mark.parametrize("number", [0, 3])
def test_there_are_two_com_ports(host: SimulatedHost, vm: Vm, number: int) -> None:
    with pytest.raises(ScriptError, match="between 1 and 2"):
        change(host, vm, ComPorts=[{"Number": number, "Path": ""}])


@pytest.mark.parametrize("path", ["COM1", "\\\\.\\pipe\\", "C:\\pipe\\x"])
def test_a_com_port_leads_to_a_pipe_or_nowhere(host: SimulatedHost, vm: Vm, path: str) -> None:
    with pytest.raises(ScriptError, match="named pipe"):
        change(host, vm, ComPorts=[{"Number": 1, "Path": path}])


def test_a_session_that_wants_to_be_asked_is_told_not_to(host: SimulatedHost) -> None:
    vm = host.add_vm("vm")
    host.confirm_preference = "Low"
    assert call(host, "Get-VM", Name=["vm"]) == [vm]
    with pytest.raises(PowerShellError, match="NonInteractive"):
        call(host, "Set-VM", VM=[vm], Notes="x")
    call(host, "Set-VM", VM=[vm], Notes="x", Confirm=False)
    assert vm.notes == "x"
