"""Fixtures for tests of whole runs and of the command line."""

from pathlib import Path

import pytest

from host.bench import Bench
from host.shell import Shell


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, capsys)
