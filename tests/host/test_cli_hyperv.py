"""The command line for machines on a Hyper-V host, and for several that are not restored."""

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from bootgraft_host.machine import ConfigurationError, MachineError
from bootgraft_host.qemu import QemuMachine
from bootgraft_host.runs import StateDirectory
from bootgraft_host.targets import absolute_target, machine_for, may_name
from host.shell import Shell
from host.simulated import CONFIGURATION, HOST_FOLDER, MARKER, Guest

VM = "hyperv://hv1.example.com/5A1E0B1C-0000-4000-8000-000000000001"
PAYLOAD_THERE = "C:\\isos\\LinuxIC.iso"


# ISOs: files here, or paths on the host.


def test_without_upload_the_live_iso_on_a_hyperv_host_must_be_named(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOOTGRAFT_ISO", str(shell.iso))
    for argv in (("run", VM, "--payload", PAYLOAD_THERE), ("inspect", VM), ("rollback", VM)):
        output = shell(*argv)
        assert output.status == 2
        assert "name it with --iso, a path on that host, or have it copied there" in output.err


def test_paths_on_a_hyperv_host_are_the_machines_to_check(shell: Shell) -> None:
    argv = ("run", VM, "--iso", "D:\\live.iso", "--payload", PAYLOAD_THERE)
    output = shell(*argv)
    assert output.status == 1
    assert "D:\\live.iso does not exist; C:\\isos\\LinuxIC.iso does not exist" in output.err


def test_with_upload_the_isos_are_files_here(shell: Shell) -> None:
    machine = shell.machine(VM)
    argv = ("run", VM, "--upload", *shell.live, "--expect", MARKER)
    missing = shell(*argv, "--payload", "/nowhere.iso")
    assert missing.status == 2
    assert "Invalid value for '--payload': File '/nowhere.iso' does not exist." in missing.err
    output = shell(*argv, "--payload", str(shell.payload))
    assert output.status == 0
    assert "upload: copy the ISOs to the machine's host" in output.err
    assert machine.uploads == []


def test_with_upload_the_live_iso_has_its_default(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOOTGRAFT_ISO", str(shell.iso))
    assert shell("inspect", VM, "--upload").status == 0


@pytest.mark.parametrize("option", ["--iso", "--payload"])
@pytest.mark.parametrize(
    ("path", "words"),
    [("/nowhere.iso", "File '/nowhere.iso' does not exist."), ("/", "File '/' is a directory.")],
)
def test_a_missing_file_here_is_wrong_usage(
    shell: Shell, option: str, path: str, words: str
) -> None:
    paths = {"--iso": str(shell.iso), "--payload": str(shell.payload), option: path}
    output = shell("run", "vm", *(word for pair in paths.items() for word in pair))
    assert (output.status, output.out) == (2, "")
    assert f"Error: Invalid value for '{option}': {words}" in output.err


def test_uploads_are_for_hyperv_hosts(shell: Shell) -> None:
    output = shell.run("--upload")
    assert output.status == 2
    assert "--upload is for machines on a Hyper-V host, and vm is here" in output.err


def test_one_drive_and_a_checkpoint_are_options_of_a_run(shell: Shell) -> None:
    output = shell.run("--one-drive")
    assert output.status == 0
    assert "exchange: exchange the live ISO for the payload" in output.err
    output = shell.run("--checkpoint")
    assert output.status == 1
    assert "no checkpoint of it can be taken: leave --checkpoint out" in output.err


def test_a_heartbeat_is_told_as_the_proof(shell: Shell) -> None:
    shell.guest = Guest(heartbeats=["OkApplicationsHealthy"])
    shell.run()
    output = shell("confirm", "vm")
    assert output.status == 0
    assert "by the guest's own sign of life:" in output.out
    assert "the integration services' heartbeat: OkApplicationsHealthy" in output.out
    document = shell("confirm", "vm", "--json").document["confirm"]
    assert document["proof"] == "heartbeat"
    assert document["heartbeat"] == "OkApplicationsHealthy"


def test_help_says_what_vm_may_be(shell: Shell) -> None:
    assert "hyperv://HOST/VM" in shell("-h", state=False).out


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "0", "1e9"])
@pytest.mark.parametrize(
    "argv",
    [
        ("inspect", "vm", "--boot-timeout"),
        ("inspect", "vm", "--request-timeout"),
        ("confirm", "vm", "--confirm-timeout"),
    ],
)
def test_a_time_that_is_none_is_wrong_usage(shell: Shell, argv: Sequence[str], value: str) -> None:
    output = shell(*argv, value)
    assert output.status == 2
    assert f"Invalid value for '{argv[-1]}'" in output.err


# Targets.


def test_targets_are_absolute() -> None:
    assert absolute_target(VM) == VM
    assert absolute_target("HyperV://./a b") == "HyperV://./a b"
    assert absolute_target("vm") == str(Path("vm").absolute())


@pytest.mark.parametrize(
    ("target", "may"),
    [
        (VM, True),
        (VM.lower(), True),
        ("hyperv://HV1.example.com/Appliance%201", True),
        ("hyperv://hv1.example.com/appliance 1", True),
        ("hyperv://hv2.example.com/Appliance%201", False),
        ("hyperv://hv1.example.com/appliance", False),
        ("/vms/appliance 1", False),
    ],
)
def test_a_machine_is_known_by_its_id_and_its_name(target: str, may: bool) -> None:
    assert may_name(target, VM, "Appliance 1") == may


def test_a_vm_toml_is_known_by_its_folder() -> None:
    assert may_name("/vms/a", "/vms/a/vm.toml", "a")
    assert may_name("/vms/a/vm.toml", "/vms/a/vm.toml", "a")
    assert not may_name("/vms/a", "/vms/b/vm.toml", "a")
    assert not may_name(VM, "/vms/b/vm.toml", "Appliance 1")


def test_a_hyperv_target_is_opened_by_the_module_for_such_machines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = ModuleType("bootgraft_host.hyperv.machine")
    module.__dict__["open_machine"] = lambda target: ("opened", target)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    opened: object = machine_for("HYPERV://./x")
    assert opened == ("opened", "HYPERV://./x")


def test_a_qemu_machines_target_is_its_file_as_it_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    text = 'name = "a"\nmemory_mib = 16\nboot_order = ["disk"]\n'
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "vm.toml").write_text(text)
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    for named in ("link", "link/vm.toml"):
        machine = machine_for(named)
        assert isinstance(machine, QemuMachine)
        assert machine.target == str(tmp_path / "link" / "vm.toml")
        machine.close()
    with pytest.raises(ConfigurationError):
        machine_for("nowhere")


# Machines that are not restored.


def kill_a_run(shell: Shell, vm: str) -> None:
    """Have a run of this machine's controller killed while the agent works."""
    child = os.fork()
    if child == 0:
        shell.guest = Guest(at_request=lambda _: os.kill(os.getpid(), signal.SIGKILL))
        if vm == "vm":
            shell.run()
        else:
            shell("inspect", vm, "--upload", *shell.live)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_recover_goes_on_with_the_others_where_a_host_does_not_answer(shell: Shell) -> None:
    kill_a_run(shell, VM)
    kill_a_run(shell, "vm")
    assert shell.machine(VM).uploads == [f"{HOST_FOLDER}/live.iso"]
    shell.out_of_reach = "hyperv://"
    output = shell("recover")
    assert output.status == 3
    assert "appliance: restored" in output.out
    assert f"{VM}: the host does not answer" in output.err
    assert f"`bootgraft recover {VM} --state-dir {shell.folder}/state` turns it" in output.err
    assert shell.machine("vm").configuration == CONFIGURATION
    shell.out_of_reach = ""
    output = shell("recover", "--json")
    assert [each["outcome"] for each in output.document["results"]] == ["restored"]
    assert shell.machine(VM).configuration == CONFIGURATION
    assert shell.machine(VM).uploads == []


@pytest.mark.parametrize("target", [VM, "hyperv://HV1.example.com/Appliance"])
def test_recover_of_a_machine_out_of_reach_says_what_is_left(shell: Shell, target: str) -> None:
    kill_a_run(shell, VM)
    shell.out_of_reach = "hyperv://"
    output = shell("recover", target, "--json")
    (document,) = output.document["results"]
    assert (output.status, document["outcome"], document["exit_status"]) == (3, "left", 3)
    assert f"`bootgraft recover {VM} " in document["message"]


def test_a_machine_out_of_reach_that_has_no_record_is_a_failure_alone(shell: Shell) -> None:
    shell.out_of_reach = "hyperv://"
    assert shell("recover", VM).status == 1
    assert shell("inspect", VM, "--upload", *shell.live).status == 1


def test_a_machine_whose_host_fails_while_it_is_recovered_is_status_3(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_a_run(shell, VM)

    def fail(_: object) -> str:
        raise MachineError("there is no virtual machine of that Id")

    monkeypatch.setattr("host.simulated.SimulatedMachine.state", fail)
    output = shell("recover", VM)
    assert output.status == 3
    assert "there is no virtual machine of that Id" in output.err
    assert f"`bootgraft recover {VM} " in output.err


def test_a_machine_that_another_controller_works_on_is_left_to_it(shell: Shell) -> None:
    kill_a_run(shell, "vm")
    with StateDirectory(shell.folder / "state").locked("vm-1"):
        output = shell("recover")
    assert output.status == 1
    assert "another bootgraft" in output.err


def test_a_damaged_record_keeps_nobody_from_the_others(shell: Shell) -> None:
    kill_a_run(shell, VM)
    kill_a_run(shell, "vm")
    record = shell.folder / "state" / "machines" / shell.machine(VM).machine_id / "unfinished.json"
    record.write_bytes(record.read_bytes()[:50])
    told = shell("status")
    assert told.status == 3
    assert f"a machine is not restored: {record} is damaged" in told.out
    assert "appliance: not restored after the run" in told.out
    document = shell("status", "--json")
    assert document.status == 3
    assert [str(record) in text for text in document.document["damaged"]] == [True]
    output = shell("recover")
    assert output.status == 3
    assert "appliance: restored" in output.out
    assert f"{record} is damaged" in output.err
    assert shell.machine("vm").configuration == CONFIGURATION
    assert shell("recover", "--json").document["results"][0]["outcome"] == "left"


def test_a_record_of_an_earlier_version_has_no_checkpoint(shell: Shell) -> None:
    kill_a_run(shell, "vm")
    record = shell.folder / "state" / "machines" / "vm-1" / "unfinished.json"
    document = json.loads(record.read_bytes())
    del document["checkpoint"]
    record.write_text(json.dumps(document))
    assert shell("recover").status == 0
