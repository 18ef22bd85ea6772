"""The cmdlets for virtual machines themselves: find, make, set, start, stop."""

import uuid
from collections.abc import Iterator

from hyperv.adapters import Nic
from hyperv.cmdlets import NAMED_MACHINES, Call, Cmdlet, fits, is_pattern, pass_through
from hyperv.enums import CHECKPOINT_TYPE, START_ACTION, STOP_ACTION
from hyperv.hardware import Dvd
from hyperv.model_object import invalid_parameter, invalid_state, object_not_found
from hyperv.values import EnumValue, PowerShellError
from hyperv.vm import Vm

ALREADY_IN_STATE = "The virtual machine is already in the specified state."
DEFAULT_MEMORY = 512 << 20  # bytes


def _get_vm(call: Call) -> Iterator[object]:
    """All machines, those whose names fit, or the one of an Id. As the module's GetVM."""
    if call.has("Id"):
        wanted = call.get("Id", uuid.UUID)
        found = [vm for vm in call.host.sorted_vms() if vm.id == wanted]
        if not found:
            raise object_not_found(
                f'Hyper-V was unable to find a virtual machine with id "{wanted}".'
            )
        yield from found
    elif call.has("Name"):
        for pattern in call.items("Name", str):
            fitting = [vm for vm in call.host.sorted_vms() if fits(pattern, vm.name)]
            if not fitting and not is_pattern(pattern):
                raise invalid_parameter(
                    f'Hyper-V was unable to find a virtual machine with name "{pattern}".'
                )
            yield from fitting
    else:
        yield from call.host.sorted_vms()


def _new_vm(call: Call) -> Iterator[object]:
    generation = call.get("Generation", int) or call.host.default_generation
    if not call.switch("NoVHD"):
        raise PowerShellError("New-VM is modelled with -NoVHD", "NotModelled")
    yield call.host.add_vm(
        call.get("Name", str) or "New Virtual Machine",
        generation=generation,
        hard_drives=(),
        dvd_drives=(Dvd(),) if generation == 1 else (),
        adapters=(Nic(switch=None),),
        memory_mib=(call.get("MemoryStartupBytes", int) or DEFAULT_MEMORY) >> 20,
    )


def _remove_vm(call: Call) -> Iterator[object]:
    for vm in call.machines():
        if not call.switch("Force"):
            raise invalid_state("Remove-VM asks for confirmation without -Force.")
        call.host.remove_vm(vm)
        yield from pass_through(call, vm)


def _set_vm(call: Call) -> Iterator[object]:
    """Set what does not need the machine to be off. As the module's SetVM."""
    for vm in call.machines():
        with vm.lock:
            vm.require_present()
            _set_actions(call, vm)
            enabled = call.get("AutomaticCheckpointsEnabled", bool)
            vm.automatic_checkpoints = vm.automatic_checkpoints if enabled is None else enabled
            kind = call.get("CheckpointType", EnumValue)
            vm.checkpoint_type = kind or vm.checkpoint_type
            notes = call.get("Notes", str)
            vm.notes = vm.notes if notes is None else notes
            vm.name = call.get("NewVMName", str) or vm.name
        yield from pass_through(call, vm)


def _set_actions(call: Call, vm: Vm) -> None:
    vm.start_action = call.get("AutomaticStartAction", EnumValue) or vm.start_action
    vm.stop_action = call.get("AutomaticStopAction", EnumValue) or vm.stop_action
    delay = call.get("AutomaticStartDelay", int)
    vm.start_delay = vm.start_delay if delay is None else delay


def _start_vm(call: Call) -> Iterator[object]:
    for vm in call.machines():
        if not vm.start():
            call.host.warnings.append(ALREADY_IN_STATE)
        yield from pass_through(call, vm)


def _stop_vm(call: Call) -> Iterator[object]:
    """Turn off or save. These guests have no integration services that would shut them down:
    without -TurnOff, -Force alone turns them off, as the module's StopVM."""
    if call.switch("Save") and call.switch("TurnOff"):
        raise invalid_parameter("Save and TurnOff cannot both be specified.")
    for vm in call.machines():
        if call.switch("Save"):
            vm.save()
        elif not (call.switch("TurnOff") or call.switch("Force") or vm.plain_state == "Off"):
            raise invalid_state("Stop-VM asks for confirmation without -Force.")
        elif not vm.turn_off():
            call.host.warnings.append(ALREADY_IN_STATE)
        yield from pass_through(call, vm)


_BY_NAME = {"VM": (), "Name": ()}

CMDLETS = (
    Cmdlet(
        "Get-VM",
        _get_vm,
        {"Name": NAMED_MACHINES["Name"], "Id": uuid.UUID},
        {"Name": (), "Id": ()},
        needs_no_set=True,
    ),
    Cmdlet(
        "New-VM",
        _new_vm,
        {"Name": str, "Generation": int, "NoVHD": "switch", "MemoryStartupBytes": int},
        {"NoVHD": ()},
    ),
    Cmdlet("Remove-VM", _remove_vm, {**NAMED_MACHINES, "Force": "switch"}, _BY_NAME),
    Cmdlet(
        "Set-VM",
        _set_vm,
        {
            **NAMED_MACHINES,
            "AutomaticStartAction": START_ACTION,
            "AutomaticStartDelay": int,
            "AutomaticStopAction": STOP_ACTION,
            "AutomaticCheckpointsEnabled": bool,
            "CheckpointType": CHECKPOINT_TYPE,
            "NewVMName": str,
            "Notes": str,
        },
        _BY_NAME,
        not_empty=("AutomaticStartAction", "AutomaticStopAction", "NewVMName"),
        not_null=("AutomaticStartDelay", "Notes"),
    ),
    Cmdlet("Start-VM", _start_vm, NAMED_MACHINES, _BY_NAME),
    Cmdlet(
        "Stop-VM",
        _stop_vm,
        {**NAMED_MACHINES, "Save": "switch", "TurnOff": "switch", "Force": "switch"},
        _BY_NAME,
    ),
)
