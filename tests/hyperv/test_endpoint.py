"""pypsrp, a real client of PowerShell remoting, against the endpoint of these tests."""

import hashlib
import json
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import requests
from pypsrp.complex_objects import PSInvocationState
from pypsrp.exceptions import AuthenticationError, WinRMTransportError, WSManFaultError
from pypsrp.powershell import PowerShell, RunspacePool
from pypsrp.wsman import WSMan

from bootgraft_host.hyperv.runner import read_script
from hyperv import wsman
from hyperv.endpoint import PASSWORD, USER, Endpoint
from hyperv.faults import FaultKind
from hyperv.small_world import STRICT, world
from hyperv.syntax import OutsideSubsetError
from hyperv.values import Command, Session, World

PARAMETERS = (
    "[CmdletBinding()]\nparam(\n    [Parameter(Mandatory = $true)]\n    [string] $Request\n)\n"
)
ECHO = PARAMETERS + STRICT + "$Request"
WAIT = STRICT + "Tests\\Wait-Long\n$global:After = 1\n'ended'"


class Host:
    """The small world, with a command that waits and one that counts its runs."""

    def __init__(self) -> None:
        self.waiting = threading.Event()
        self.wait = 30.0  # seconds at most
        self.runs = 0
        self.ended: list[str] = []

    def world(self) -> World:
        made = world()
        made.add_commands(
            Command("Tests\\Wait-Long", {}, self._wait),
            Command("Tests\\Add-Run", {}, self._run),
            Command("Tests\\Open-Pipe", {}, self._open),
        )
        return made

    def _wait(self, session: Session, given: dict[str, object]) -> Iterable[object]:
        self.waiting.set()
        session.stopping.wait(self.wait)
        return []

    def _run(self, session: Session, given: dict[str, object]) -> Iterable[object]:
        self.runs += 1
        return [str(self.runs)]

    def _open(self, session: Session, given: dict[str, object]) -> Iterable[object]:
        session.at_end.append(lambda: self.ended.append("pipe"))
        return []


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def endpoint(host: Host, tmp_path: Path) -> Iterator[Endpoint]:
    with Endpoint(host, tmp_path) as made:
        yield made


def connect(endpoint: Endpoint, password: str = PASSWORD, operation_timeout: int = 5) -> WSMan:
    return WSMan(
        "localhost",
        port=endpoint.port,
        username=USER,
        password=password,
        cert_validation=str(endpoint.certificates.authority),  # type: ignore[arg-type] # a path, too
        operation_timeout=operation_timeout,
        read_timeout=operation_timeout + 5,
        no_proxy=True,
    )


@pytest.fixture
def pool(endpoint: Endpoint) -> Iterator[RunspacePool]:
    with connect(endpoint) as connection:
        opened = RunspacePool(connection)
        opened.open()
        yield opened


def run(pool: RunspacePool, text: str, **parameters: object) -> PowerShell:
    """Run a script to its end."""
    pipeline = PowerShell(pool)
    pipeline.add_script(text, use_local_scope=True)
    pipeline.add_parameters(parameters)
    pipeline.invoke()
    return pipeline


@pytest.mark.parametrize(
    "request_text",
    [
        '\'; Remove-Item C:\\ # "$(Get-Date)" `n',
        "\u00e4\u20ac\U0001f600 <&> \u0001",
        "_x000A_",
        " \r\n\t x ",
        "x" * 400_000,
    ],
    ids=["quotes", "characters", "escapes", "space", "long"],
)
def test_parameters_and_output_arrive_as_they_were_sent(
    pool: RunspacePool, request_text: str
) -> None:
    pipeline = run(pool, ECHO, Request=request_text)
    assert not pipeline.had_errors
    assert pipeline.output == [request_text]


def test_a_script_of_the_package_is_known_by_name(endpoint: Endpoint, pool: RunspacePool) -> None:
    run(pool, read_script("find"), Request=json.dumps({"Name": "a"}))
    run(pool, STRICT + "1")
    assert endpoint.scripts()[0] == "find"
    assert len(endpoint.scripts()[1]) == 64
    assert endpoint.asked("find") == [{"Name": "a"}]


def test_an_error_is_a_record_of_a_failed_pipeline(pool: RunspacePool) -> None:
    pipeline = run(pool, STRICT + "'lost'\n$n = $null\n$n.Name\n")
    assert pipeline.had_errors
    assert pipeline.state == PSInvocationState.FAILED
    (record,) = pipeline.streams.error
    assert record.fq_error == "PropertyNotFoundStrict"
    assert "'Name' cannot be found" in str(record)
    assert record.category == 0


def test_an_error_has_its_category(pool: RunspacePool) -> None:
    (record,) = run(pool, STRICT + "Tests\\No-One").streams.error
    assert record.fq_error == "CommandNotFoundException"
    assert record.category == 13  # ObjectNotFound


def test_pipelines_follow_one_another_in_a_shell_and_globals_stay(pool: RunspacePool) -> None:
    run(pool, STRICT + "$global:Kept = 'x'")
    assert run(pool, STRICT + "$global:Kept").output == ["x"]
    assert run(pool, STRICT + "$global:Lost").had_errors
    assert run(pool, STRICT + "$global:Kept").output == ["x"]


def test_shells_do_not_share_their_globals(endpoint: Endpoint, pool: RunspacePool) -> None:
    with connect(endpoint) as connection, RunspacePool(connection) as other:
        run(pool, STRICT + "$global:Kept = 'x'")
        assert run(other, STRICT + "$global:Kept").had_errors
        assert len(endpoint.shells()) == 2
    assert len(endpoint.shells()) == 1


def test_two_shells_work_at_the_same_time(
    endpoint: Endpoint, host: Host, pool: RunspacePool
) -> None:
    waiting = PowerShell(pool)
    waiting.add_script(WAIT)
    waiting.begin_invoke()
    assert host.waiting.wait(10)
    with connect(endpoint) as connection, RunspacePool(connection) as other:
        assert run(other, STRICT + "1").output == ["1"]
    waiting.stop()


def test_a_script_may_take_longer_than_an_operation(endpoint: Endpoint, host: Host) -> None:
    host.wait = 2.5
    with connect(endpoint, operation_timeout=1) as connection, RunspacePool(connection) as pool:
        before = endpoint.requests
        assert run(pool, WAIT).output == ["ended"]
        assert endpoint.requests - before >= 4  # the command, and Receive again and again


def test_a_running_script_is_stopped(host: Host, pool: RunspacePool) -> None:
    pipeline = PowerShell(pool)
    pipeline.add_script(WAIT)
    pipeline.begin_invoke()
    assert host.waiting.wait(10)
    pipeline.stop()
    assert run(pool, STRICT + "$global:After").had_errors


def test_the_end_of_a_shell_lets_go_of_what_it_holds(
    endpoint: Endpoint, host: Host, pool: RunspacePool
) -> None:
    run(pool, STRICT + "Tests\\Open-Pipe")
    assert host.ended == []
    pool.close()
    assert host.ended == ["pipe"]
    assert endpoint.shells() == []


def test_a_wrong_password_is_refused(endpoint: Endpoint) -> None:
    connection = connect(endpoint, password="wrong")  # noqa: S106 - it is
    with connection, pytest.raises(AuthenticationError):
        RunspacePool(connection).open()
    assert endpoint.requests == 0


def connect_by_certificate(endpoint: Endpoint, certificate: Path, key: Path) -> WSMan:
    return WSMan(
        "localhost",
        port=endpoint.port,
        auth="certificate",
        certificate_pem=str(certificate),
        certificate_key_pem=str(key),
        cert_validation=str(endpoint.certificates.authority),  # type: ignore[arg-type] # a path, too
        no_proxy=True,
    )


def test_a_client_certificate_lets_in(endpoint: Endpoint) -> None:
    certificates = endpoint.certificates
    connection = connect_by_certificate(endpoint, certificates.client, certificates.client_key)
    with connection, RunspacePool(connection) as pool:
        assert run(pool, STRICT + "1").output == ["1"]


def test_a_certificate_of_somebody_else_does_not_let_in(endpoint: Endpoint) -> None:
    certificates = endpoint.certificates
    connection = connect_by_certificate(endpoint, certificates.server, certificates.server_key)
    with connection, pytest.raises(AuthenticationError):
        RunspacePool(connection).open()


def test_the_certificate_is_the_authoritys(endpoint: Endpoint) -> None:
    connection = WSMan(
        "localhost", port=endpoint.port, username=USER, password=PASSWORD, no_proxy=True
    )
    with pytest.raises(requests.exceptions.SSLError):
        RunspacePool(connection).open()


@pytest.mark.parametrize(
    ("kind", "runs"),
    [(FaultKind.NOT_RUN, 0), (FaultKind.ANSWER_LOST, 1), (FaultKind.ANSWER_CUT, 1)],
)
def test_a_fault_of_a_script_cuts_the_connection_once(
    endpoint: Endpoint, host: Host, pool: RunspacePool, kind: FaultKind, runs: int
) -> None:
    script = PARAMETERS + STRICT + "Tests\\Add-Run"
    run(pool, STRICT + "1")
    endpoint.arm(kind, script=_hash_of(script))
    with pytest.raises(requests.exceptions.RequestException):
        run(pool, script, Request="{}")
    assert host.runs == runs
    assert endpoint.armed() == []
    assert run(pool, script, Request="{}").output == [str(runs + 1)]


@pytest.mark.parametrize("kind", list(FaultKind))
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_fault_of_a_request_cuts_the_connection(
    endpoint: Endpoint, host: Host, kind: FaultKind, number: int
) -> None:
    endpoint.arm(kind, request=number)

    def open_and_run() -> None:
        pool = RunspacePool(connection)
        pool.open()
        run(pool, STRICT + "Tests\\Add-Run")

    with connect(endpoint) as connection, pytest.raises(requests.exceptions.RequestException):
        open_and_run()
    assert endpoint.armed() == []
    assert endpoint.requests == number


def test_a_stopped_endpoint_refuses_and_comes_back_at_the_same_port_with_its_shells(
    endpoint: Endpoint, pool: RunspacePool
) -> None:
    run(pool, STRICT + "$global:Kept = 'x'")
    port = endpoint.port
    endpoint.stop()
    with pytest.raises(requests.exceptions.ConnectionError):
        run(pool, STRICT + "1")
    endpoint.start()
    assert endpoint.port == port
    assert run(pool, STRICT + "$global:Kept").output == ["x"]


def test_a_stop_cuts_a_connection_that_waits(
    endpoint: Endpoint, host: Host, pool: RunspacePool
) -> None:
    pipeline = PowerShell(pool)
    pipeline.add_script(WAIT)
    pipeline.begin_invoke()
    assert host.waiting.wait(10)
    threading.Timer(0.2, endpoint.stop).start()
    with pytest.raises(requests.exceptions.ConnectionError):
        pipeline.end_invoke()


def test_dropped_shells_are_not_found_any_more(
    endpoint: Endpoint, host: Host, pool: RunspacePool
) -> None:
    run(pool, STRICT + "Tests\\Open-Pipe")
    endpoint.drop_shells()
    assert host.ended == ["pipe"]
    with pytest.raises(WSManFaultError) as caught:
        run(pool, STRICT + "1")
    assert caught.value.code == wsman.SHELL_NOT_FOUND


def test_a_shell_dropped_while_its_script_runs_is_not_found(
    endpoint: Endpoint, host: Host, pool: RunspacePool
) -> None:
    pipeline = PowerShell(pool)
    pipeline.add_script(WAIT)
    pipeline.begin_invoke()
    assert host.waiting.wait(10)
    threading.Timer(0.2, endpoint.drop_shells).start()
    with pytest.raises(WSManFaultError) as caught:
        pipeline.end_invoke()
    assert caught.value.code == wsman.SHELL_NOT_FOUND


@pytest.mark.parametrize(
    ("status", "error"), [(401, AuthenticationError), (403, WinRMTransportError)]
)
def test_all_requests_are_refused_with_a_status(
    endpoint: Endpoint, status: int, error: type[Exception]
) -> None:
    endpoint.refusal = status
    with connect(endpoint) as connection, pytest.raises(error):
        RunspacePool(connection).open()


def test_all_requests_are_refused_with_a_fault(endpoint: Endpoint) -> None:
    endpoint.refusal_fault = wsman.FaultError(wsman.ACCESS_DENIED, "Access is denied.")
    with connect(endpoint) as connection, pytest.raises(WSManFaultError) as caught:
        RunspacePool(connection).open()
    assert caught.value.code == wsman.ACCESS_DENIED
    assert caught.value.reason == "Access is denied."


def test_a_shell_that_would_idle_for_less_than_a_minute_is_refused(endpoint: Endpoint) -> None:
    with connect(endpoint) as connection, pytest.raises(WSManFaultError):
        RunspacePool(connection, idle_timeout=59).open()


def test_a_script_is_delayed(endpoint: Endpoint, pool: RunspacePool) -> None:
    script = STRICT + "1"
    endpoint.delays[_hash_of(script)] = 0.5
    began = time.monotonic()
    run(pool, script)
    assert time.monotonic() - began >= 0.5


def test_a_mistake_in_a_script_fails_its_run_and_the_test(tmp_path: Path, host: Host) -> None:
    def make_it() -> None:
        with Endpoint(host, tmp_path) as endpoint, connect(endpoint) as connection:
            pool = RunspacePool(connection)
            pool.open()
            (record,) = run(pool, "try { 1 } finally { 2 }").streams.error
            assert "outside the subset" in str(record)

    with pytest.raises(OutsideSubsetError):
        make_it()


def _hash_of(script: str) -> str:
    return hashlib.sha256(script.encode()).hexdigest()
