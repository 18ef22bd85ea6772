"""A host behind a real endpoint, and a runner for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bootgraft_host.hyperv import winrm
from bootgraft_host.hyperv.hosts import HostSettings
from bootgraft_host.hyperv.winrm import WinRMRunner
from hyperv.endpoint import PASSWORD, USER, Endpoint
from hyperv.notes_host import SCRIPT, NotesHost


@pytest.fixture
def modelled(monkeypatch: pytest.MonkeyPatch) -> NotesHost:
    monkeypatch.setattr(winrm, "read_script", lambda _script: SCRIPT)
    return NotesHost()


@pytest.fixture
def endpoint(modelled: NotesHost, tmp_path: Path) -> Iterator[Endpoint]:
    with Endpoint(modelled, tmp_path) as started:
        yield started


@pytest.fixture
def settings(endpoint: Endpoint, tmp_path: Path) -> HostSettings:
    path = tmp_path / "password"
    path.touch(0o600)
    path.write_text(f"{PASSWORD}\n", "utf-8")
    return HostSettings(
        host="hv1.example.com",
        file=tmp_path / "hosts.toml",
        address="localhost",
        port=endpoint.port,
        user=USER,
        password_file=path,
        ca_file=endpoint.certificates.authority,
    )


@pytest.fixture
def runner(settings: HostSettings) -> Iterator[WinRMRunner]:
    opened = WinRMRunner(settings)
    yield opened
    opened.close()
