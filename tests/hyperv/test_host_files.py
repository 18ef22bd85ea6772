"""Looking at files and folders of the modelled host."""

from pathlib import Path

import pytest

from bootgraft_host.hyperv.blank_iso import make_blank_iso
from bootgraft_host.hyperv.host_files import (
    Answer,
    drive_of,
    find_iso_problem,
    hash_file,
    list_files,
    measure_files,
    read_free_space,
    read_host,
    read_range,
    remove_paths,
    rename_file,
)
from bootgraft_host.hyperv.runner import HostError, ScriptError
from hyperv.direct import DirectRunner
from hyperv.model import SimulatedHost


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    return SimulatedHost(tmp_path / "host")


@pytest.fixture
def runner(host: SimulatedHost) -> DirectRunner:
    return DirectRunner(host)


def test_the_host_says_who_it_is(runner: DirectRunner) -> None:
    facts = read_host(runner)
    assert facts.program_data == "C:\\ProgramData"
    assert facts.utc_now.tzinfo is not None
    assert facts.powershell.startswith("5.1")


def test_free_space_is_read_of_the_drive(host: SimulatedHost, runner: DirectRunner) -> None:
    host.files.available_bytes = 12345
    assert read_free_space(runner, "c:\\ISOs\\live.iso") == 12345
    assert read_free_space(runner, "\\\\server\\share\\live.iso") is None


@pytest.mark.parametrize(
    ("path", "drive"),
    [("d:\\x", "D:\\"), ("C:", "C:\\"), ("\\\\a\\b\\c", None), ("", None), ("\\\\?\\C:\\x", None)],
)
def test_a_paths_drive(path: str, drive: str | None) -> None:
    assert drive_of(path) == drive


def test_sizes_of_files_that_are_there(host: SimulatedHost, runner: DirectRunner) -> None:
    host.files.put("C:\\a.iso", b"four")
    host.files.put("C:\\folder\\b.iso", b"")
    sizes = measure_files(runner, ["C:\\a.iso", "C:\\folder", "C:\\none", "C:\\folder\\b.iso"])
    assert sizes == {"C:\\a.iso": 4, "C:\\folder": None, "C:\\none": None, "C:\\folder\\b.iso": 0}
    assert list_files(runner, "C:\\folder") == {"b.iso": 0}


def test_parts_of_a_file_are_read(host: SimulatedHost, runner: DirectRunner) -> None:
    host.files.put("C:\\a.iso", b"0123456789")
    assert read_range(runner, "C:\\a.iso", 3, 4) == b"3456"
    assert read_range(runner, "C:\\a.iso", 8, 100) == b"89"
    assert read_range(runner, "C:\\a.iso", 20, 5) == b""


def test_a_file_that_was_looked_at_is_let_go_of(host: SimulatedHost, runner: DirectRunner) -> None:
    host.files.put("C:\\a.iso", b"0123456789")
    read_range(runner, "C:\\a.iso", 0, 1)
    hash_file(runner, "C:\\a.iso", 10)
    rename_file(runner, "C:\\a.iso", "C:\\b.iso")
    remove_paths(runner, ["C:\\b.iso", "C:\\none.iso"])
    assert host.files.find("C:\\b.iso") is None


def test_an_iso_is_told_from_other_files(host: SimulatedHost, runner: DirectRunner) -> None:
    host.files.put("C:\\live.iso", make_blank_iso())
    host.files.put("C:\\udf.iso", bytes(0x8000) + b"\0BEA01\1")
    host.files.put("C:\\text.iso", b"no ISO")
    assert find_iso_problem(runner, "C:\\live.iso") is None
    assert find_iso_problem(runner, "C:\\udf.iso") is None
    assert "is no ISO" in str(find_iso_problem(runner, "C:\\text.iso"))
    assert "is not a file" in str(find_iso_problem(runner, "C:\\none.iso"))
    assert "is not a file" in str(find_iso_problem(runner, "C:\\ProgramData"))


def test_a_hash_is_given_as_digits(host: SimulatedHost, runner: DirectRunner) -> None:
    host.files.put("C:\\a.iso", b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert hash_file(runner, "C:\\a.iso", 0) == empty
    with pytest.raises(ScriptError, match="Could not find file"):
        hash_file(runner, "C:\\none.iso", 0)


@pytest.mark.parametrize(
    ("field", "value", "read"),
    [
        ("X", 1, Answer.text),
        ("X", "1", Answer.number),
        ("X", True, Answer.number),
        ("X", -1, Answer.number),
        ("X", 1, Answer.flag),
        ("X", "?", Answer.data),
        ("X", ["a", 1], Answer.texts),
        ("X", "a", Answer.texts),
        ("Y", 1, Answer.number),
    ],
)
def test_an_answer_of_another_shape_is_an_error(field, value, read) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(HostError, match="try on hv1"):
        read(Answer({field: value}, "try", "hv1"), "X")


def test_an_answer_that_is_no_object_is_an_error() -> None:
    with pytest.raises(HostError, match="an object was expected"):
        Answer([], "try", "hv1")
    with pytest.raises(HostError, match="an object was expected"):
        list(Answer({"X": [1]}, "try", "hv1").objects("X"))
