"""Uploads, the doctor and its trials over a real connection: TLS, NTLM, WS-Management, PSRP."""

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootgraft_host.doctor_cli import open_line
from bootgraft_host.hyperv import protocol_hvrelay, scratch, upload
from bootgraft_host.hyperv.doctor import TOPICS, examine_host
from bootgraft_host.hyperv.host_files import BLOCK_SIZE
from bootgraft_host.hyperv.hosts import HostSettings
from bootgraft_host.hyperv.settle import QUESTIONS, settle
from bootgraft_host.hyperv.upload import upload_isos
from bootgraft_host.hyperv.winrm import WinRMRunner
from hyperv.endpoint import PASSWORD, USER, Endpoint
from hyperv.faults import FaultKind
from hyperv.model import SimulatedHost
from hyperv.test_settle import LIVE_ISO, WAITS, LivePower, nothing_is_left, power_new_machines

VM_ID = "d9e0eb0a-5b37-508e-9173-67e9ade83acf"


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    return SimulatedHost(tmp_path / "host")


@pytest.fixture
def served(host: SimulatedHost, tmp_path: Path) -> Iterator[Endpoint]:
    with Endpoint(host, tmp_path) as started:
        yield started


@pytest.fixture
def winrm_runner(served: Endpoint, tmp_path: Path) -> Iterator[WinRMRunner]:
    password = tmp_path / "password"
    password.touch(0o600)
    password.write_text(f"{PASSWORD}\n", "utf-8")
    runner = WinRMRunner(
        HostSettings(
            host="hv1.example.com",
            file=tmp_path / "hosts.toml",
            address="localhost",
            port=served.port,
            user=USER,
            password_file=password,
            ca_file=served.certificates.authority,
        )
    )
    yield runner
    runner.close()


@pytest.mark.parametrize("kind", [None, *FaultKind])
def test_an_iso_arrives_whole_whatever_happens_to_the_connection(
    host: SimulatedHost,
    served: Endpoint,
    winrm_runner: WinRMRunner,
    tmp_path: Path,
    kind: FaultKind | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upload, "RETRY_INTERVAL", 0.1)
    iso = tmp_path / "live.iso"
    iso.write_bytes(random.Random(3).randbytes(2 * BLOCK_SIZE + 1))  # noqa: S311 - any bytes do
    if kind is not None:
        for script in ("files", "write-block", "hash", "rename"):
            served.arm(kind, script=script)
    (uploaded,) = upload_isos(winrm_runner, None, VM_ID, [iso], lambda _: None)
    found = host.files.find_file(uploaded.path)
    assert found is not None
    assert hashlib.sha256(found.read_bytes()).hexdigest() == uploaded.sha256
    assert [each.name for each in found.parent.iterdir()] == [found.name]


def test_the_doctor_finds_all_well(winrm_runner: WinRMRunner) -> None:
    checks = {check.topic: check.verdict for check in examine_host(winrm_runner, None)}
    assert checks == dict.fromkeys(("connection", *TOPICS), "ok")


def test_every_question_is_settled(
    host: SimulatedHost,
    winrm_runner: WinRMRunner,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol_hvrelay, "open_runner", lambda _: winrm_runner.another())
    monkeypatch.setattr(scratch, "INTERVAL", 0.1)
    iso = tmp_path / "live.iso"
    iso.write_bytes(LIVE_ISO)
    power_new_machines(host, LivePower())
    settled = settle(
        winrm_runner,
        None,
        iso,
        lambda pipe: open_line(winrm_runner.host, pipe),
        lambda _: None,
        waits=WAITS,
    )
    assert [finding.letter for finding in settled.findings if finding.settled] == list(QUESTIONS)
    assert nothing_is_left(host)
