"""Fixtures for tests that run `bootgraft` on a machine."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vm.bench import Bench, find_live_iso
from vm.payload import build_payload


@pytest.fixture(scope="session")
def payload_iso(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in payload ISO."""
    return build_payload(tmp_path_factory.mktemp("payload"))


@pytest.fixture(scope="module")
def make_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Bench]]:
    """Make benches; sockets need the short paths of their runtime folders."""
    live_iso = find_live_iso()
    with contextlib.ExitStack() as cleanup:

        def make() -> Bench:
            runtime = cleanup.enter_context(tempfile.TemporaryDirectory(prefix="bg"))
            bench = Bench(tmp_path_factory.mktemp("bench"), Path(runtime), live_iso)
            cleanup.callback(bench.close)
            return bench

        yield make
