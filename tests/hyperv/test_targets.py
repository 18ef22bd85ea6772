"""From hyperv://HOST/VM to a machine's Id."""

from pathlib import Path

import pytest

from bootgraft_host.hyperv import hosts, machine
from bootgraft_host.hyperv.machine import open_machine
from bootgraft_host.hyperv.runner import Runner, UnreachableError
from bootgraft_host.hyperv.targets import Target, find_vm, parse_target
from bootgraft_host.machine import ConfigurationError
from hyperv.direct import DirectRunner
from hyperv.machines import CutRunner, make_host
from hyperv.model import SimulatedHost

ID = "5f0c8a3e-5d7e-4d60-9d4f-0c6a2f6a8b11"


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    return make_host(tmp_path)


@pytest.mark.parametrize(
    ("target", "expected", "vm_id"),
    [
        ("hyperv://hv1.example.com/appliance", Target("hv1.example.com", "appliance"), None),
        ("HyperV://HV1/My%20VM", Target("HV1", "My VM"), None),
        ("hyperv://hv1/My VM", Target("hv1", "My VM"), None),
        ("hyperv://hv1/a%2Fb%25c", Target("hv1", "a/b%c"), None),
        ("hyperv://hv1/a/b?c#d", Target("hv1", "a/b?c#d"), None),
        ("hyperv://hv1/M%C3%BCller", Target("hv1", "Müller"), None),
        ("hyperv://./appliance", Target(".", "appliance"), None),
        ("hyperv://10.0.0.5/appliance", Target("10.0.0.5", "appliance"), None),
        ("hyperv://[fe80::1]/appliance", Target("[fe80::1]", "appliance"), None),
        (f"hyperv://hv1/{ID.upper()}", Target("hv1", ID.upper()), ID),
        (f"hyperv://hv1/{{{ID}}}", Target("hv1", f"{{{ID}}}"), ID),
        (f"hyperv://hv1/{ID.replace('-', '')}", Target("hv1", ID.replace("-", "")), None),
    ],
)
def test_a_target_is_a_host_and_a_name_or_an_id(
    target: str, expected: Target, vm_id: str | None
) -> None:
    parsed = parse_target(target)
    assert parsed == expected
    assert parsed.vm_id == vm_id


@pytest.mark.parametrize(
    "target",
    [
        "hyperv://hv1",
        "hyperv://hv1/",
        "hyperv:///appliance",
        "hyperv://me@hv1/appliance",
        "hyperv://hv1:5986/appliance",
        "hyperv://hv1/a%00b",
        "hyperv://hv1/%ff",
        "http://hv1/appliance",
    ],
)
def test_anything_else_is_refused(target: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_target(target)


def test_a_name_is_found_in_any_case_and_exactly_first(host: SimulatedHost) -> None:
    upper, lower = host.add_vm("Appliance"), host.add_vm("appliance")
    runner = DirectRunner(host)
    assert find_vm(runner, "Appliance").id == str(upper.id)
    assert find_vm(runner, "appliance").id == str(lower.id)
    host.remove_vm(upper)
    assert find_vm(runner, "APPLIANCE").id == str(lower.id)


def test_a_name_is_no_wildcard(host: SimulatedHost) -> None:
    host.add_vm("appliance")
    host.add_vm("web[1]*", hard_drives=("C:\\VMs\\web.vhdx",))
    runner = DirectRunner(host)
    assert find_vm(runner, "web[1]*").name == "web[1]*"
    with pytest.raises(ConfigurationError, match=r"named 'app\*'; it has appliance, web"):
        find_vm(runner, "app*")


def test_several_machines_of_one_name_are_named_by_their_ids(host: SimulatedHost) -> None:
    first, second = host.add_vm("appliance"), host.add_vm("appliance")
    second.start()
    with pytest.raises(ConfigurationError, match="2 machines named 'appliance'") as caught:
        find_vm(DirectRunner(host), "appliance")
    assert f"hyperv://hv1.example.com/{first.id} (Off)" in str(caught.value)
    assert f"hyperv://hv1.example.com/{second.id} (Running)" in str(caught.value)


def test_a_host_without_machines_is_said_to_be_one(host: SimulatedHost) -> None:
    with pytest.raises(ConfigurationError, match="nor any other that you may see"):
        find_vm(DirectRunner(host), "appliance")


def test_an_id_is_taken_without_a_connection_and_a_name_is_resolved_once(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    vm = host.add_vm("My VM")
    runners: list[CutRunner] = []

    def open_runner(name: str) -> Runner:
        runners.append(CutRunner(host, name))
        return runners[-1]

    monkeypatch.setattr(machine, "open_runner", open_runner)
    monkeypatch.setenv("BOOTGRAFT_HOSTS", str(tmp_path / "hosts.toml"))
    (tmp_path / "hosts.toml").write_text('[hosts."hv1"]\nupload_folder = "D:\\\\uploads"\n')
    by_id = open_machine(f"hyperv://hv1/{str(vm.id).upper()}")
    assert runners[0].calls == []
    by_name = open_machine("hyperv://hv1/my%20vm")
    assert [script for script, _ in runners[1].calls] == ["find"]
    vm.name = "renamed"
    for opened in (by_id, by_name):
        assert opened.machine_id == f"hyperv-{vm.id}"
        assert opened.target == f"hyperv://hv1/{vm.id}"
        assert opened.state() == "off"
    assert by_name.name == "My VM"
    assert by_id.name == str(vm.id)
    assert hosts.read_settings("hv1").upload_folder == "D:\\uploads"


def test_a_host_that_does_not_answer_is_said_to_be_one(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = CutRunner(host)
    runner.cut = lambda _: True
    monkeypatch.setattr("bootgraft_host.hyperv.vm.READ_PAUSES", (0.0,))
    monkeypatch.setattr(machine, "open_runner", lambda _: runner)
    with pytest.raises(UnreachableError):
        open_machine("hyperv://hv1/appliance")
