"""Fixtures for tests that run `bootgraft` on a machine."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootgraft_host.customise import BootChanges, customise_iso
from vm.bench import Bench, find_live_iso
from vm.payload import build_payload


@pytest.fixture(scope="session")
def payload_iso(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in payload ISO."""
    return build_payload(tmp_path_factory.mktemp("payload"))


@pytest.fixture(scope="session")
def live_iso(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The live ISO, but it starts at once: each run would wait 2 s for a key."""
    iso = tmp_path_factory.mktemp("live") / "bootgraft.iso"
    customise_iso(find_live_iso(), iso, BootChanges(menu_time=0))
    return iso


@pytest.fixture(scope="module")
def make_bench(
    tmp_path_factory: pytest.TempPathFactory, live_iso: Path
) -> Iterator[Callable[[], Bench]]:
    """Make benches; sockets need the short paths of their runtime folders."""
    with contextlib.ExitStack() as cleanup:

        def make() -> Bench:
            runtime = cleanup.enter_context(tempfile.TemporaryDirectory(prefix="bg"))
            bench = Bench(tmp_path_factory.mktemp("bench"), Path(runtime), live_iso)
            cleanup.callback(bench.close)
            return bench

        yield make
