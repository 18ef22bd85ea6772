"""The modelled host's files, pipes and screens, through the scripts that use them."""

import base64
import contextlib
import hashlib
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from bootgraft_agent.wire import JSON
from bootgraft_host.hyperv.runner import ScriptError
from hyperv.direct import DirectRunner
from hyperv.files import machine_sid
from hyperv.model import SimulatedHost
from hyperv.values import PowerShellError, Session
from hyperv.vm import Vm

FOLDER = "C:\\ProgramData\\bootgraft"
PART = f"{FOLDER}\\live.part"


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    host = SimulatedHost(tmp_path)
    host.files.locate(FOLDER).mkdir(parents=True)
    return host


@pytest.fixture
def runner(host: SimulatedHost) -> DirectRunner:
    return DirectRunner(host)


def ask(runner: DirectRunner, script: str, **asked: JSON) -> Any:
    answers = runner.run(script, asked)
    return answers[0] if answers else None


def write(runner: DirectRunner, path: str, offset: int, data: bytes, *, flush: bool = False) -> int:
    text = base64.b64encode(data).decode()
    answer = ask(runner, "write-block", Path=path, Offset=offset, Data=text, Flush=flush)
    return int(answer["Length"])


def refused(runner: DirectRunner, script: str, **asked: JSON) -> str:
    with pytest.raises(ScriptError) as caught:
        runner.run(script, asked)
    return caught.value.error_id


# Files.


def test_paths_are_found_in_any_case(host: SimulatedHost) -> None:
    path = host.files.put("C:\\ISOs\\Live.ISO", b"live")
    found = host.files.find("c:/isos/LIVE.iso")
    assert found is not None
    assert found.read_bytes() == b"live"
    assert host.files.name(found) == path
    assert host.files.find("C:\\ISOs\\..\\isos\\.\\live.iso") == found
    assert host.files.find_file("C:\\ISOs") is None
    for wrong in (
        "live.iso",
        "\\ISOs\\live.iso",
        "\\\\server\\share\\live.iso",
        "C:live.iso",
        "C:\\a*",
    ):
        assert host.files.find(wrong) is None


def test_blocks_are_written_at_offsets_and_cut_what_is_behind(runner: DirectRunner) -> None:
    assert write(runner, PART, 0, b"0123456789") == 10
    assert write(runner, PART, 4, b"abc") == 7
    assert write(runner, PART, 4, b"abc", flush=True) == 7
    answer = ask(runner, "read-file", Path=PART, Offset=2, Count=100)
    assert base64.b64decode(answer["Data"]) == b"23abc"


def test_a_hash_is_that_of_the_whole_file(runner: DirectRunner) -> None:
    content = bytes(range(256)) * 9000
    for offset in range(0, len(content), 1 << 20):
        write(runner, PART, offset, content[offset : offset + (1 << 20)])
    answer = ask(runner, "hash", Path=PART)
    assert base64.b64decode(answer["Sha256"]) == hashlib.sha256(content).digest()


def test_what_is_not_there_is_an_error_by_its_exception(runner: DirectRunner) -> None:
    assert refused(runner, "hash", Path=PART) == "FileNotFoundException"
    missing = "C:\\nowhere\\file.part"
    assert refused(runner, "write-block", Path=missing, Offset=0, Data="", Flush=False) == (
        "DirectoryNotFoundException"
    )
    assert refused(runner, "rename", Path=PART, NewPath=f"{FOLDER}\\a.iso") == (
        "FileNotFoundException"
    )
    assert refused(runner, "hash", Path="no path") == "ArgumentException"
    assert refused(runner, "hash", Path=FOLDER) == "UnauthorizedAccessException"


def test_files_are_looked_at_and_listed(runner: DirectRunner) -> None:
    write(runner, PART, 0, b"1234")
    answer = ask(runner, "files", Check=[PART, FOLDER, "C:\\none"], Measure=[PART], List=[FOLDER])
    assert [(each["IsFile"], each["IsFolder"]) for each in answer["Checked"]] == [
        (True, False),
        (False, True),
        (False, False),
    ]
    assert answer["Measured"] == [{"Path": PART, "Length": 4}]
    assert answer["Listed"] == [{"Folder": FOLDER, "Name": "live.part", "Length": 4}]
    assert refused(runner, "files", Check=[], Measure=[f"{PART}2"], List=[])


def test_a_file_is_renamed_unless_the_name_is_taken(
    host: SimulatedHost, runner: DirectRunner
) -> None:
    write(runner, PART, 0, b"1234")
    ask(runner, "rename", Path=PART, NewPath=f"{FOLDER}\\live.iso")
    write(runner, PART, 0, b"5")
    assert refused(runner, "rename", Path=PART, NewPath=f"{FOLDER}\\live.iso") == "IOException"
    found = host.files.find(f"{FOLDER}\\live.iso")
    assert found is not None
    assert found.read_bytes() == b"1234"


def test_files_are_removed_and_folders_only_empty(
    host: SimulatedHost, runner: DirectRunner
) -> None:
    write(runner, PART, 0, b"1234")
    assert refused(runner, "remove", Files=[], Folders=[FOLDER]) == "IOException"
    ask(runner, "remove", Files=[PART, PART], Folders=[FOLDER])
    assert host.files.find(FOLDER) is None
    assert refused(runner, "remove", Files=[], Folders=[FOLDER]) == "DirectoryNotFoundException"


def test_the_iso_of_a_running_machine_cannot_be_removed_or_written(
    host: SimulatedHost, runner: DirectRunner
) -> None:
    path = host.files.put("C:\\ISOs\\live.iso", b"live")
    vm = host.add_vm("appliance")
    vm.dvd_drives[0].path = path
    vm.start()
    assert refused(runner, "remove", Files=[path], Folders=[]) == "IOException"
    assert refused(runner, "write-block", Path=path, Offset=0, Data="", Flush=False) == (
        "IOException"
    )
    ask(runner, "hash", Path=path)
    vm.turn_off()
    ask(runner, "remove", Files=[path], Folders=[])


def test_an_open_file_keeps_others_away(host: SimulatedHost, runner: DirectRunner) -> None:
    write(runner, PART, 0, b"1234")
    real = host.files.locate(PART)
    handle = host.open_files.open(real, {"Read"}, {"Read", "Write"})
    write(runner, PART, 4, b"5")
    assert refused(runner, "remove", Files=[PART], Folders=[]) == "IOException"
    host.open_files.close(handle)
    host.open_files.open(real, {"Read"}, set())
    assert refused(runner, "hash", Path=PART) == "IOException"
    host.reboot()
    ask(runner, "hash", Path=PART)


# Permissions.


def test_a_folder_is_made_with_its_permissions(host: SimulatedHost, runner: DirectRunner) -> None:
    vm = host.add_vm("appliance")
    folder = f"{FOLDER}\\{vm.id}"
    sid = machine_sid(vm.id)
    sddl = f"O:BAD:P(A;OICI;FA;;;BA)(A;OICI;FA;;;SY)(A;OICI;0x1200a9;;;{sid})"
    ask(runner, "make-folder", Path=folder, Sddl=sddl)
    answer = ask(runner, "folder", Path=folder)
    assert answer["Attributes"] == "Directory"
    assert answer["Sddl"].startswith("O:BAG:")
    assert f"D:PAI(A;OICI;FA;;;BA)(A;OICI;FA;;;SY)(A;OICI;0x1200a9;;;{sid})" in answer["Sddl"]
    iso = host.files.put(f"{folder}\\live.iso")
    assert host.files.may_read(iso, vm.id)
    assert not host.files.may_read(iso, host.add_vm("other").id)
    ask(runner, "make-folder", Path=folder, Sddl="O:SYD:P(A;OICI;FA;;;SY)")
    assert ask(runner, "folder", Path=folder) == answer


def test_a_machine_has_the_account_that_windows_gives_it() -> None:
    vm_id = uuid.UUID("D9E0EB0A-5B37-508E-9173-67E9ADE83ACF")
    expected = "S-1-5-83-1-3655396106-1351506743-3915871121-3476744365"
    assert machine_sid(vm_id) == expected


def test_what_is_no_descriptor_is_refused(runner: DirectRunner) -> None:
    assert refused(runner, "make-folder", Path=FOLDER, Sddl="nonsense") == "ArgumentException"


def test_a_file_keeps_its_permissions_when_it_is_moved(
    host: SimulatedHost, runner: DirectRunner
) -> None:
    vm = host.add_vm("appliance")
    path = host.files.put("C:\\Private\\live.iso")
    host.files.secure(path, "O:BAD:P(A;;FA;;;BA)")
    host.files.locate("C:\\ISOs").mkdir()
    ask(runner, "rename", Path=path, NewPath="C:\\ISOs\\live.iso")
    assert not host.files.may_read("C:\\ISOs\\live.iso", vm.id)
    host.files.put("C:\\ISOs\\other.iso")
    assert host.files.may_read("C:\\ISOs\\other.iso", vm.id)


def test_denying_entries_come_first(host: SimulatedHost) -> None:
    vm = host.add_vm("appliance")
    path = host.files.put("C:\\ISOs\\live.iso")
    host.files.secure(path, f"O:BAD:P(A;;FR;;;WD)(D;;GR;;;{machine_sid(vm.id)})")
    assert not host.files.may_read(path, vm.id)


def test_a_link_is_seen_as_one(host: SimulatedHost, runner: DirectRunner, tmp_path: Path) -> None:
    host.files.locate(f"{FOLDER}\\link").symlink_to(tmp_path)
    assert ask(runner, "folder", Path=f"{FOLDER}\\link")["Attributes"] == "Directory, ReparsePoint"


# The host itself.


def test_the_host_says_what_it_is(host: SimulatedHost, runner: DirectRunner) -> None:
    answer = ask(runner, "host", Drives=["C:\\"])
    assert answer["ComputerName"] == "HV1"
    assert answer["ProgramData"] == "C:\\ProgramData"
    assert answer["User"] == "HV1\\Administrator"
    assert "S-1-5-32-544" in answer["GroupSids"]
    assert answer["HyperVModules"] == ["2.0.0.0", "1.1"]
    assert answer["Drives"] == [{"Name": "C:\\", "AvailableBytes": 100 << 30}]
    assert answer["Windows"] == "Microsoft Windows NT 10.0.20348.0"
    host.has_module = False
    assert ask(runner, "host", Drives=[])["HyperVModules"] == []
    assert refused(runner, "host", Drives=["Z:\\"]) == "ExceptionWhenGetting"


def test_a_machine_for_trying_things_out_comes_and_goes(
    host: SimulatedHost, runner: DirectRunner
) -> None:
    made = ask(runner, "make-scratch", Name="scratch", Notes="ours", MemoryBytes=64 << 20)
    vm = host.find_vm("scratch")
    assert (str(vm.id), vm.notes, vm.memory_mib, vm.hard_drives) == (made["Id"], "ours", 64, [])
    assert [drive.slot for drive in vm.dvd_drives] == [("IDE", 1, 0)]
    ask(runner, "remove-scratch", Id=made["Id"])
    assert host.sorted_vms() == []


# Pictures.


def picture(runner: DirectRunner, vm_id: uuid.UUID, width: int, height: int) -> Any:
    identifier = str(vm_id).upper()
    return ask(
        runner,
        "screenshot",
        SettingsFilter=f"VirtualSystemIdentifier = '{identifier}'"
        " AND VirtualSystemType = 'Microsoft:Hyper-V:System:Realized'",
        HeadFilter=f"SystemName = '{identifier}'",
        Width=width,
        Height=height,
    )


def test_a_picture_has_two_bytes_for_each_pixel_and_four_more(
    host: SimulatedHost, runner: DirectRunner
) -> None:
    vm, _ = host.add_vm("appliance"), host.add_vm("other").start()
    vm.start()
    vm.take_checkpoint("one")
    answer = picture(runner, vm.id, 32, 16)
    assert answer["Heads"] == [{"Width": 720, "Height": 400}]
    (found,) = answer["Pictures"]
    assert found["ReturnValue"] == 0
    assert len(base64.b64decode(found["Data"])) == 32 * 16 * 2 + 4


def test_there_is_no_picture_of_a_machine_that_is_off(
    host: SimulatedHost, runner: DirectRunner
) -> None:
    answer = picture(runner, host.add_vm("appliance").id, 32, 16)
    assert answer["Heads"] == []
    assert answer["Pictures"] == [{"ReturnValue": 32775, "Data": ""}]
    assert picture(runner, uuid.uuid4(), 32, 16) == {"Heads": [], "Pictures": []}


# Pipes through .NET.


@pytest.fixture
def vm(host: SimulatedHost) -> Vm:
    vm = host.add_vm("appliance")
    vm.com_ports[0].path = "\\\\.\\pipe\\com1"
    vm.start()
    return vm


def open_relay(runner: DirectRunner, *, idle: int = 30_000) -> None:
    runner.run(
        "relay-open",
        {"PipeName": "com1", "ConnectMilliseconds": 100, "IdleMilliseconds": idle},
    )


def exchange(
    runner: DirectRunner, offset: int, *blocks: JSON, idle: int = 30_000, patience: int = 5_000
) -> Any:
    return ask(
        runner,
        "relay-exchange",
        Offset=offset,
        Limit=65536,
        IdleMilliseconds=idle,
        WriteMilliseconds=patience,
        Write=list(blocks),
    )


def exchange_until_ended(runner: DirectRunner) -> Any:
    """Exchange until the relay has noticed its end; give its last answer, from the beginning."""
    deadline = time.monotonic() + 10
    while not (answer := exchange(runner, 0))["Ended"]:
        assert time.monotonic() < deadline
    return answer


def test_a_pipe_of_ones_own_can_be_tried(runner: DirectRunner) -> None:
    text = base64.b64encode(b"knock").decode()
    assert ask(runner, "try-pipe", Name="trial", Data=text)["Data"] == text


def test_the_relay_keeps_what_comes_and_writes(
    host: SimulatedHost, runner: DirectRunner, vm: Vm
) -> None:
    open_relay(runner)
    connection = server_end(host)
    connection.server_write(b"first")
    wait_for_data(runner, b"first")
    answer = exchange(runner, 0, {"After": 0, "Number": 1, "Data": "aGVsbG8="})
    assert base64.b64decode(answer["Data"]) == b"first"
    assert (answer["Ended"], answer["Written"], answer["Writing"]) == (False, 1, "RanToCompletion")
    assert connection.server_read(100) == b"hello"
    again = exchange(runner, 0, {"After": 0, "Number": 1, "Data": "aGVsbG8="})
    assert again["Data"] == answer["Data"]
    assert not connection.to_server


def test_a_write_that_nobody_reads_stays_pending(
    host: SimulatedHost, runner: DirectRunner, vm: Vm
) -> None:
    open_relay(runner)
    text = base64.b64encode(b"x" * 10_000).decode()
    answer = exchange(runner, 0, {"After": 0, "Number": 1, "Data": text}, patience=50)
    assert answer["Writing"] == "WaitingForActivation"
    connection = server_end(host)
    read = 0
    while read < 10_000:
        read += len(connection.server_read(4096))
    deadline = time.monotonic() + 10
    while exchange(runner, 0)["Writing"] != "RanToCompletion":
        assert time.monotonic() < deadline


def test_the_relay_ends_with_the_machine(host: SimulatedHost, runner: DirectRunner, vm: Vm) -> None:
    open_relay(runner)
    server_end(host).server_write(b"last words")
    vm.turn_off()
    answer = exchange_until_ended(runner)
    assert base64.b64decode(answer["Data"]) == b"last words"
    assert answer["Ending"] == "RanToCompletion"
    with pytest.raises(ScriptError, match=r"Pipe is broken\."):
        exchange(runner, 10, {"After": 0, "Number": 1, "Data": "aGVsbG8="})


def test_the_relay_lets_go_of_the_pipe_after_a_while(
    host: SimulatedHost, runner: DirectRunner, vm: Vm
) -> None:
    open_relay(runner, idle=50)
    first = server_end(host)
    other = DirectRunner(host)
    deadline = time.monotonic() + 10
    while server_end(host) in (None, first):
        assert time.monotonic() < deadline
        with contextlib.suppress(ScriptError):  # busy still
            open_relay(other)
    exchange_until_ended(runner)


@pytest.mark.parametrize("why", ["off", "busy"])
def test_a_pipe_that_is_not_to_be_had_is_a_timeout(
    host: SimulatedHost, runner: DirectRunner, vm: Vm, why: str
) -> None:
    if why == "off":
        vm.turn_off()
    else:
        open_relay(DirectRunner(host))
    with pytest.raises(ScriptError) as caught:
        open_relay(runner)
    assert caught.value.error_id == "TimeoutException"


def test_closing_the_session_frees_the_pipe_and_removes_the_file(
    host: SimulatedHost, runner: DirectRunner, vm: Vm
) -> None:
    temporary = host.files.locate("C:\\Users\\Administrator\\AppData\\Local\\Temp")
    open_relay(runner)
    assert len(list(temporary.iterdir())) == 1
    runner.close()
    assert list(temporary.iterdir()) == []
    open_relay(runner)
    runner.run("relay-close", {})
    assert list(temporary.iterdir()) == []


def test_what_is_not_listed_cannot_be_named(host: SimulatedHost) -> None:
    world = host.world()
    stream = world.types["system.threading.tasks.task"]
    with pytest.raises(PowerShellError, match="does not contain a method"):
        stream.call(Session(world), "WhenAll", ())
    with pytest.raises(PowerShellError, match="overload"):
        stream.call(Session(world), "Delay", (1, 2, 3))
    assert "system.io.streamreader" not in world.types


def server_end(host: SimulatedHost) -> Any:
    pipe = host.pipes.find("com1")
    assert pipe is not None
    return pipe.connection


def wait_for_data(runner: DirectRunner, expected: bytes) -> None:
    deadline = time.monotonic() + 10
    while base64.b64decode(exchange(runner, 0)["Data"]) != expected:
        assert time.monotonic() < deadline
