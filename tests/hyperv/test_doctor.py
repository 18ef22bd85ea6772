"""What the doctor finds on the modelled host, and what it advises."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest

from bootgraft_agent.wire import JSON
from bootgraft_host import doctor_cli
from bootgraft_host.hyperv import doctor, vm
from bootgraft_host.hyperv.doctor import TOPICS, Check, examine_host
from bootgraft_host.hyperv.runner import (
    DEFAULT_TIMEOUT,
    AccessError,
    HostError,
    Runner,
    ScriptError,
    UnreachableError,
)
from bootgraft_host.hyperv.scratch import NAME_PREFIX
from bootgraft_host.machine import ConfigurationError
from hyperv.consoles import Consoles
from hyperv.direct import DirectRunner
from hyperv.model import SimulatedHost

HYPERV_ADMINISTRATORS = "S-1-5-32-578"


class FailingRunner(DirectRunner):
    """Raises an error instead of running one script, or any."""

    def __init__(self, host: SimulatedHost, error: HostError, script: str | None = None) -> None:
        super().__init__(host)
        self._error = error
        self._script = script

    def run(
        self,
        script: str,
        asked: Mapping[str, JSON] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> list[Mapping[str, JSON]]:
        if self._script in (None, script):
            raise self._error
        return super().run(script, asked, timeout=timeout)


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    return SimulatedHost(tmp_path / "host")


def examine(runner: Runner, base: str | None = None) -> dict[str, Check]:
    return {check.topic: check for check in examine_host(runner, base)}


def files_below(host: SimulatedHost) -> list[str]:
    folder = host.files.locate("C:\\")
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_all_is_well_on_a_host_that_has_all(host: SimulatedHost) -> None:
    host.add_vm("appliance")
    before = files_below(host)
    checks = examine(DirectRunner(host))
    assert tuple(checks) == ("connection", *TOPICS)
    assert {check.verdict for check in checks.values()} == {"ok"}
    assert all(not check.mend for check in checks.values())
    assert checks["virtual machines"].text == "1 can be seen"
    assert files_below(host) == before
    assert host.pipes.names() == []


def test_an_upload_folder_that_was_there_stays(host: SimulatedHost) -> None:
    runner = DirectRunner(host)
    runner.run("make-folder", {"Path": "D:\\isos", "Sddl": "O:BAD:P(A;OICI;FA;;;BA)"})
    checks = examine(runner, "D:\\isos")
    assert checks["upload folder"].verdict == "ok"
    found = host.files.find("D:\\isos")
    assert found is not None
    assert list(found.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (AccessError("HTTP 401"), "hosts.toml"),
        (UnreachableError("no route to host"), "Enable-PSRemoting -Force"),
        (
            ScriptError(
                "hv1",
                "host",
                "MethodInvocationNotSupportedInConstrainedLanguage",
                "InvalidOperation",
                "Cannot invoke method.",
            ),
            "AppLocker",
        ),
    ],
)
def test_without_a_connection_the_rest_is_not_known(
    host: SimulatedHost, error: HostError, words: str
) -> None:
    checks = examine(FailingRunner(host, error))
    assert checks["connection"].verdict == "wrong"
    assert words in " ".join(checks["connection"].mend)
    assert {checks[topic].verdict for topic in TOPICS} == {"not known"}


@pytest.mark.parametrize("name", ["hv1.example.com", "."])
@pytest.mark.parametrize("script", ["host", "find", "make-folder", "write-block", "try-pipe"])
@pytest.mark.parametrize("kind", [HostError, AccessError, UnreachableError])
def test_whatever_is_wrong_something_is_said_to_mend_it(
    host: SimulatedHost,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[HostError],
    script: str,
    name: str,
) -> None:
    monkeypatch.setattr(vm, "READ_PAUSES", ())
    runner = FailingRunner(host, kind("it does not work"), script)
    runner._host = name
    wrong = [check for check in examine(runner).values() if check.verdict == "wrong"]
    assert len(wrong) == 1
    assert wrong[0].mend


def test_a_host_that_forbids_scripts_to_itself_can_be_asked_from_elsewhere(
    host: SimulatedHost,
) -> None:
    error = HostError("host gave no answer on this computer: running scripts is disabled")
    runner = FailingRunner(host, error)
    runner._host = "."
    assert "Get-ExecutionPolicy -List" in examine(runner)["connection"].mend


@pytest.mark.parametrize("script", ["make-folder", "folder", "write-block", "hash"])
def test_an_upload_folder_that_cannot_be_used_leaves_nothing(
    host: SimulatedHost, script: str
) -> None:
    """Each run of the script but the first fails, so that a part of the work is done."""

    class LaterFailing(FailingRunner):
        def run(
            self,
            script: str,
            asked: Mapping[str, JSON] | None = None,
            *,
            timeout: float = DEFAULT_TIMEOUT,
        ) -> list[Mapping[str, JSON]]:
            wanted = self._script
            self._script = wanted if wanted in [name for name, _ in self.calls] else "none"
            try:
                return super().run(script, asked, timeout=timeout)
            finally:
                self._script = wanted

    before = files_below(host)
    error = ScriptError("hv1", script, "IOException", "NotSpecified", "It failed.")
    for runner in (FailingRunner(host, error, script), LaterFailing(host, error, script)):
        examine(runner)
        assert files_below(host) == before


def test_an_upload_folder_that_somebody_begins_to_use_meanwhile_stays(host: SimulatedHost) -> None:
    theirs = "C:\\ProgramData\\bootgraft\\another"

    class Neighbour(DirectRunner):
        def run(
            self,
            script: str,
            asked: Mapping[str, JSON] | None = None,
            *,
            timeout: float = DEFAULT_TIMEOUT,
        ) -> list[Mapping[str, JSON]]:
            if script == "hash":
                host.files.locate(theirs).mkdir()
            return super().run(script, asked, timeout=timeout)

    assert examine(Neighbour(host))["upload folder"].verdict == "ok"
    assert host.files.find(theirs) is not None


def test_a_hosts_name_is_quoted_in_commands(host: SimulatedHost) -> None:
    runner = FailingRunner(host, UnreachableError("no route to host"))
    runner._host = "hv'1"
    assert "-DnsName 'hv''1'" in " ".join(examine(runner)["connection"].mend)


def test_a_host_without_the_module_is_told_how_to_get_it(host: SimulatedHost) -> None:
    host.has_module = False
    check = examine(DirectRunner(host))["Hyper-V module"]
    assert check.verdict == "wrong"
    assert "Install-WindowsFeature -Name Hyper-V-PowerShell" in " ".join(check.mend)


def test_hyper_v_administrators_alone_are_told_what_does_not_work(host: SimulatedHost) -> None:
    host.group_sids = ["S-1-1-0", HYPERV_ADMINISTRATORS]
    check = examine(DirectRunner(host))["rights"]
    assert check.verdict == "wrong"
    assert "--upload cannot make its folder" in check.text
    assert check.mend == ("Add-LocalGroupMember -SID S-1-5-32-544 -Member 'HV1\\Administrator'",)


def test_a_local_account_over_the_network_is_told_of_its_filtered_rights(
    host: SimulatedHost,
) -> None:
    host.group_sids = ["S-1-1-0", "S-1-5-113"]
    check = examine(DirectRunner(host))["rights"]
    assert "--upload" not in check.text
    assert "LocalAccountTokenFilterPolicy" in " ".join(check.mend)


def test_an_administrator_on_the_host_itself_is_told_to_open_powershell_as_one(
    host: SimulatedHost,
) -> None:
    host.group_sids = ["S-1-1-0", "S-1-5-113"]
    runner = DirectRunner(host, ".")
    mend = examine(runner)["rights"].mend
    assert "Run as administrator" in mend[0]
    assert "Add-LocalGroupMember" in mend[1]
    assert "LocalAccountTokenFilterPolicy" not in " ".join(mend)


def test_machines_that_cannot_be_listed_are_a_matter_of_the_service(host: SimulatedHost) -> None:
    error = ScriptError("hv1", "find", "AccessDenied", "PermissionDenied", "Access is denied.")
    check = examine(FailingRunner(host, error, "find"))["virtual machines"]
    assert check.verdict == "wrong"
    assert "Access is denied." in check.text
    assert "Start-Service -Name vmms" in check.mend


def test_an_old_powershell_is_wrong() -> None:
    assert doctor._version("4.0") < doctor.MIN_POWERSHELL <= doctor._version("5.1.14393.693")


@pytest.mark.parametrize(
    ("seconds", "verdict", "words"),
    [(10, "ok", "10 s ahead of ours"), (-400, "wrong", "400 s behind ours")],
)
def test_the_clocks_are_compared(
    host: SimulatedHost, seconds: int, verdict: str, words: str
) -> None:
    class ClockRunner(DirectRunner):
        def run(
            self,
            script: str,
            asked: Mapping[str, JSON] | None = None,
            *,
            timeout: float = DEFAULT_TIMEOUT,
        ) -> list[Mapping[str, JSON]]:
            answers = super().run(script, asked, timeout=timeout)
            now = datetime.now(UTC) + timedelta(seconds=seconds)
            return [
                {**each, "UtcNow": now.isoformat()} if "UtcNow" in each else each
                for each in answers
            ]

    check = examine(ClockRunner(host))["clock"]
    assert (check.verdict, check.text) == (verdict, words)


def test_a_folder_of_somebody_elses_is_wrong(host: SimulatedHost) -> None:
    base = "C:\\ProgramData\\bootgraft"
    host.files.locate(base).mkdir()
    host.files.secure(base, "O:BAD:AI(A;;FA;;;WD)")
    check = examine(DirectRunner(host))["upload folder"]
    assert check.verdict == "wrong"
    assert "besides administrators, WD may change it" in check.text


def test_a_disk_that_is_nearly_full_is_wrong(host: SimulatedHost) -> None:
    host.files.available_bytes = 1000
    assert examine(DirectRunner(host))["free space"].verdict == "wrong"


def test_free_space_without_a_drive_letter_is_not_known(host: SimulatedHost) -> None:
    check = examine(DirectRunner(host), "\\\\server\\share\\isos")["free space"]
    assert check.verdict == "not known"


def test_pipes_that_may_not_be_opened_are_wrong(host: SimulatedHost) -> None:
    error = ScriptError("hv1", "try-pipe", "UnauthorizedAccessException", "NotSpecified", "Denied.")
    assert examine(FailingRunner(host, error, "try-pipe"))["named pipes"].verdict == "wrong"


# The command.


def run_doctor(runner: Runner, *, as_json: bool = False) -> tuple[int, Consoles]:
    consoles = Consoles()
    status = doctor_cli.examine(
        consoles, "hv1.example.com", False, None, lambda _: runner, as_json=as_json
    )
    return status, consoles


@pytest.fixture(autouse=True)
def _no_hosts_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BOOTGRAFT_HOSTS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_the_command_prints_a_line_for_each_check(host: SimulatedHost) -> None:
    status, consoles = run_doctor(DirectRunner(host))
    lines = consoles.out_text.splitlines()
    assert status == 0
    assert len(lines) == 1 + len(TOPICS)
    assert lines[2] == "ok        Hyper-V module: 2.0.0.0, 1.1"


def test_the_command_prints_below_what_is_wrong_how_to_mend_it(host: SimulatedHost) -> None:
    host.has_module = False
    status, consoles = run_doctor(DirectRunner(host))
    lines = consoles.out_text.splitlines()
    assert status == 1
    at = lines.index("wrong     Hyper-V module: PowerShell has no module Hyper-V")
    assert lines[at + 1].startswith(" " * 12 + "On Windows Server: Install-WindowsFeature")


def test_the_command_gives_one_json_document(host: SimulatedHost) -> None:
    host.add_vm(f"{NAME_PREFIX}0123456789abcdef")
    status, consoles = run_doctor(DirectRunner(host), as_json=True)
    document = json.loads(consoles.out_text)
    assert status == 0
    assert document["host"] == "hv1.example.com"
    assert {check["verdict"] for check in document["checks"]} == {"ok"}
    assert document["leftovers"] == [f"{NAME_PREFIX}0123456789abcdef"]
    assert "Remove-VM -Name bootgraft-settle-0123456789abcdef" in consoles.err_text


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("hyperv://hv1.example.com", "hv1.example.com"),
        ("hyperv://hv1/", "hv1"),
        ("hyperv://.", "."),
        ("HYPERV://HV1", "HV1"),
    ],
)
def test_a_host_is_read_out_of_its_target(target: str, host: str) -> None:
    assert doctor_cli.parse_host(target) == host


@pytest.mark.parametrize(
    "target", ["hv1", "hyperv://", "hyperv://hv1/vm", "hyperv://hv 1", "hyperv://a@b", "x.toml"]
)
def test_other_targets_are_refused(target: str) -> None:
    with pytest.raises((click.UsageError, ConfigurationError)):
        doctor_cli.parse_host(target)
