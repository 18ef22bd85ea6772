"""Who is let in by a host, which hosts are believed, and what a message says or never says."""

import importlib.util
import logging
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pypsrp.powershell import RunspacePool
from spnego.exceptions import ErrorCode, SpnegoError

from bootgraft_host.hyperv import refusals, winrm
from bootgraft_host.hyperv.hosts import HostSettings
from bootgraft_host.hyperv.runner import (
    AccessError,
    HostError,
    UnreachableError,
)
from bootgraft_host.hyperv.winrm import WinRMRunner
from bootgraft_host.machine import ConfigurationError
from bootgraft_host.runs import Run
from hyperv import wsman
from hyperv.endpoint import PASSWORD, USER, Endpoint
from hyperv.faults import FaultKind
from hyperv.notes_host import MARK, NotesHost, mark
from hyperv.plain_http import PlainServer, serve_plainly

# Hosts that let nobody in.


def expect_refusal(settings: HostSettings, *words: str) -> None:
    with pytest.raises(AccessError) as caught:
        mark(WinRMRunner(settings))
    for word in ("opening a PowerShell session on hv1.example.com", *words):
        assert word in str(caught.value)


def test_a_wrong_password_is_refused_and_shown_nowhere(
    endpoint: Endpoint, settings: HostSettings
) -> None:
    assert settings.password_file is not None
    settings.password_file.write_text("wrong-s3cret")
    expect_refusal(settings, f"the user {USER}", "by negotiate", str(settings.file))
    assert endpoint.requests == 0


def test_an_unknown_user_is_refused(settings: HostSettings) -> None:
    expect_refusal(replace(settings, user="nobody"), "the user nobody")


def test_a_user_without_the_right_to_remoting_is_refused(
    endpoint: Endpoint, settings: HostSettings
) -> None:
    endpoint.refusal_fault = wsman.FaultError(wsman.ACCESS_DENIED, "Access is denied.")
    expect_refusal(settings, "Access is denied.", "an administrator of the host")


def test_a_refusal_by_http_is_one_as_well(endpoint: Endpoint, settings: HostSettings) -> None:
    endpoint.refusal = 403
    expect_refusal(settings, "HTTP status 403")


def with_certificate(settings: HostSettings, path: Path) -> HostSettings:
    return replace(
        settings,
        auth="certificate",
        user=None,
        password_file=None,
        certificate_file=path,
        certificate_key_file=path.with_suffix(".key"),
    )


def test_a_certificate_lets_in_instead_of_a_password(
    endpoint: Endpoint, settings: HostSettings
) -> None:
    runner = WinRMRunner(with_certificate(settings, endpoint.certificates.client))
    mark(runner)
    runner.close()
    assert endpoint.shells() == []


def test_a_certificate_of_nobody_is_refused(endpoint: Endpoint, settings: HostSettings) -> None:
    nobody = with_certificate(settings, endpoint.certificates.server)
    expect_refusal(nobody, f"the certificate in {endpoint.certificates.server}", "by certificate")


@pytest.mark.skipif(bool(importlib.util.find_spec("gssapi")), reason="tickets can be used here")
@pytest.mark.parametrize("auth", ["kerberos", "negotiate"])
def test_without_the_library_for_tickets_it_says_what_to_install(auth: str, tmp_path: Path) -> None:
    settings = HostSettings(host="hv1", file=tmp_path / "hosts.toml", address="hv1")
    with pytest.raises(ConfigurationError) as caught:
        WinRMRunner(replace(settings, auth=auth))  # type: ignore[arg-type]
    assert "bootgraft[kerberos]" in str(caught.value)
    assert f'[hosts."hv1"] of {settings.file}' in str(caught.value)


# Hosts that cannot be reached, or are somebody else.


def expect_no_answer(settings: HostSettings, *words: str) -> None:
    with pytest.raises(UnreachableError) as caught:
        mark(WinRMRunner(settings))
    place = f"hv1.example.com (WinRM at {settings.address}, port {settings.port}, "
    for word in ("opening a PowerShell session on", place, *words):
        assert word in str(caught.value)
    assert "It is not known" not in str(caught.value)


def test_a_host_of_an_unknown_authority_is_not_trusted(
    endpoint: Endpoint, settings: HostSettings
) -> None:
    expect_no_answer(
        replace(settings, ca_file=None),
        "self-signed certificate",
        f'ca_file in [hosts."hv1.example.com"] of {settings.file}',
    )
    assert endpoint.requests == 0


def test_a_certificate_for_another_name_is_not_trusted(settings: HostSettings) -> None:
    expect_no_answer(replace(settings, address="127.1"), "not valid for '127.1'", "its name")


def test_an_unverified_certificate_is_taken_when_asked_for_and_logged(
    settings: HostSettings, caplog: pytest.LogCaptureFixture
) -> None:
    runner = WinRMRunner(replace(settings, ca_file=None, tls_verify=False))
    mark(runner)
    assert "the certificate of hv1.example.com is not verified" in caplog.text
    runner.close()


def test_a_port_where_nobody_listens_is_named(endpoint: Endpoint, settings: HostSettings) -> None:
    endpoint.stop()
    expect_no_answer(settings, "Connection refused", "bootgraft doctor hyperv:", "firewall")
    plain = replace(settings, tls=False, ca_file=None)
    expect_no_answer(plain, "HTTP)", "Connection refused", f"port {plain.port}")


def test_a_name_that_does_not_resolve_is_named(settings: HostSettings) -> None:
    expect_no_answer(replace(settings, address="hv1.invalid"), "address in [hosts.")


def test_a_host_that_keeps_silent_is_given_up(
    settings: HostSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winrm, "CONNECTION_TIMEOUT", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        began = time.monotonic()
        expect_no_answer(replace(settings, port=server.getsockname()[1]), "timed out", "firewall")
        assert time.monotonic() - began < 15


def test_a_port_that_does_not_speak_tls_is_named(settings: HostSettings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n" * 9)
                connection.recv(4096)

        thread = threading.Thread(target=answer)
        thread.start()
        port = server.getsockname()[1]
        expect_no_answer(replace(settings, port=port), f"Does port {port} speak HTTPS?")
        thread.join()


@pytest.mark.parametrize(("status", "words"), [(404, "HTTP status 404"), (200, "WinRM")])
def test_a_web_server_that_is_no_winrm_is_named(
    endpoint: Endpoint, settings: HostSettings, status: int, words: str
) -> None:
    endpoint.refusal = status
    expect_no_answer(settings, words)


# Without TLS.


@pytest.fixture
def plain(endpoint: Endpoint) -> Iterator[PlainServer]:
    with serve_plainly(endpoint) as server:
        yield server


def without_tls(settings: HostSettings, plain: PlainServer) -> HostSettings:
    return replace(settings, tls=False, ca_file=None, port=plain.server_address[1])


def test_without_tls_the_messages_are_encrypted_by_negotiate(
    endpoint: Endpoint, modelled: NotesHost, settings: HostSettings, plain: PlainServer
) -> None:
    runner = WinRMRunner(without_tls(settings, plain))
    mark(runner, "Bürgeramt \u20ac" * 50_000)
    assert modelled.vm.read("Notes") == "Bürgeramt \u20ac" * 50_000
    runner.close()
    assert endpoint.shells() == []


def test_without_tls_a_wrong_password_is_refused(
    settings: HostSettings, plain: PlainServer
) -> None:
    assert settings.password_file is not None
    settings.password_file.write_text("wrong")
    expect_refusal(without_tls(settings, plain), f"the user {USER}")


def test_without_tls_a_cut_connection_is_made_again_with_keys_of_its_own(
    endpoint: Endpoint, modelled: NotesHost, settings: HostSettings, plain: PlainServer
) -> None:
    runner = WinRMRunner(without_tls(settings, plain))
    mark(runner)
    endpoint.arm(FaultKind.ANSWER_LOST, script=MARK)
    with pytest.raises(UnreachableError, match="It is not known whether mark ran"):
        mark(runner, "cut off")
    mark(runner, "afterwards")
    plain.cut_connections()
    with pytest.raises(UnreachableError, match="HTTP status 400"):
        mark(runner, "with the old keys")
    mark(runner, "with new keys")
    assert modelled.changes == 4
    assert len({call.shell_id for call in endpoint.calls}) == 1
    runner.close()


# Passwords that are refused.


def count_refused(caplog: pytest.LogCaptureFixture) -> int:
    """How often the endpoint was shown a password that is wrong."""
    return sum("log-in refused" in record.getMessage() for record in caplog.records)


def test_a_refused_password_is_not_shown_again_and_again_until_its_account_is_locked(
    settings: HostSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "hyperv.http_side")
    assert settings.password_file is not None
    settings.password_file.write_text("wrong-s3cret")
    for _ in range(4):  # as a line to a guest does, which connects anew ten times a second
        expect_refusal(settings, f"the user {USER}")
    assert count_refused(caplog) == 1
    settings.password_file.write_text(PASSWORD, "utf-8")
    mark(WinRMRunner(settings))


def test_a_password_that_the_key_distribution_center_refuses_is_not_shown_to_it_again(
    settings: HostSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def refuse(_pool: object) -> None:
        attempts.append(1)
        raise SpnegoError(ErrorCode.no_cred, context_msg="Preauthentication failed")

    monkeypatch.setattr(RunspacePool, "open", refuse)
    for _ in range(3):
        expect_refusal(settings)
    assert len(attempts) == 1


def test_a_refused_password_is_tried_again_after_a_while(
    settings: HostSettings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG, "hyperv.http_side")
    monkeypatch.setattr(refusals, "FORGET_AFTER", 0.05)
    assert settings.password_file is not None
    settings.password_file.write_text("wrong-s3cret")
    expect_refusal(settings)
    time.sleep(0.06)
    expect_refusal(settings)
    assert count_refused(caplog) == 2


def test_a_password_that_is_changed_meanwhile_is_refused_once_and_the_new_one_let_in(
    endpoint: Endpoint, settings: HostSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "hyperv.http_side")
    runner = WinRMRunner(settings)
    mark(runner)
    (tmp_path / "users").write_text(f":{USER}:another\n", "utf-8")
    endpoint.arm(FaultKind.ANSWER_CUT, script=MARK)
    with pytest.raises(UnreachableError):
        mark(runner)
    for _ in range(3):
        with pytest.raises(AccessError):
            mark(runner)
    runner.close()
    assert count_refused(caplog) == 1
    assert settings.password_file is not None
    settings.password_file.write_text("another")
    mark(runner)
    runner.close()


# Secrets.


def test_the_password_is_in_no_log_and_the_libraries_are_not_in_that_of_the_run(
    settings: HostSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for library in ("pypsrp", "urllib3", "spnego", "requests"):
        logging.getLogger(library).setLevel(logging.DEBUG)
    directory = tmp_path / "run"
    directory.mkdir()
    runner = WinRMRunner(settings)
    with Run(directory).logging():
        mark(runner)
        logging.getLogger(winrm.__name__).debug("a line of ours: %r", runner)
        runner.close()
    heard = {record.name.partition(".")[0] for record in caplog.records}
    assert {"pypsrp", "urllib3"} <= heard
    for text in (caplog.text, (directory / "run.log").read_text(), repr(vars(runner))):
        assert PASSWORD not in text
        assert repr(PASSWORD)[1:-1] not in text
    lines = (directory / "run.log").read_text().splitlines()
    assert any("a line of ours" in line for line in lines)
    assert all(" bootgraft_host." in line for line in lines)


def test_the_password_is_in_no_error(endpoint: Endpoint, settings: HostSettings) -> None:
    errors: list[HostError] = []
    for fail in (endpoint.drop_shells, endpoint.stop):
        runner = WinRMRunner(settings)
        endpoint.arm(FaultKind.ANSWER_CUT, script=MARK)
        fail()
        with pytest.raises(HostError) as caught:
            mark(runner)
        errors.append(caught.value)
    for error in errors:
        cause: BaseException | None = error
        while cause is not None:
            assert PASSWORD not in f"{cause} {cause!r} {cause.args!r}"
            cause = cause.__cause__ or cause.__context__
