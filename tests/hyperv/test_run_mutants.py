"""A mistake in any command or parameter of any script is found.

What the scripts do is exercised; where a mistake would change nothing (a depth of JSON that is not
needed there, strict mode in a script without mistakes) the tests of their text find it.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bootgraft_host.hyperv import machine, relay
from bootgraft_host.hyperv.runner import read_script
from hyperv import direct, test_scripts
from hyperv.exercises import EXERCISES
from hyperv.mutants import Mutant, make_mutants
from hyperv.test_scripts import SCRIPTS

NAMES = [path.stem for path in SCRIPTS]
TEXT_TESTS: tuple[Callable[[Any], None], ...] = (
    test_scripts.test_a_script_takes_one_request_and_stops_at_the_first_error,
    test_scripts.test_a_script_ends_with_one_json_array_and_writes_nothing_else,
)
# Only in these is a mistake the text's own matter: they are the same in all scripts.
FRAME = ("Set-StrictMode", "ConvertFrom-Json", "ConvertTo-Json")


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "OPEN_TIME", 0.0)
    monkeypatch.setattr(relay, "OPEN_INTERVAL", 0.0)
    monkeypatch.setattr(machine, "POLL_INTERVAL", 0.0)


def is_found_by_exercises(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> bool:
    def read(script: str) -> str:
        return mutant.text if script == mutant.script else read_script(script)

    monkeypatch.setattr(direct, "read_script", read)
    return any(fails(exercise) for exercise in EXERCISES[mutant.script])


def fails(exercise: Callable[[Path], None]) -> bool:
    folder = Path(tempfile.mkdtemp())
    try:
        exercise(folder)
    except Exception:  # noqa: BLE001 - however it shows
        return True
    finally:
        shutil.rmtree(folder)
    return False


def is_found_in_text(mutant: Mutant) -> bool:
    script = SimpleNamespace(stem=mutant.script, read_text=lambda _encoding: mutant.text)
    for test in TEXT_TESTS:
        try:
            test(script)
        except Exception:  # noqa: BLE001 - however it shows
            return True
    return False


def test_every_script_is_exercised() -> None:
    assert sorted(EXERCISES) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_script_without_a_mistake_passes(name: str) -> None:
    assert [exercise for exercise in EXERCISES[name] if fails(exercise)] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_command_or_parameter_that_is_wrong_is_found(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutants = list(make_mutants(name, read_script(name)))
    assert len(mutants) >= 16
    survivors = [each for each in mutants if not is_found_by_exercises(each, monkeypatch)]
    assert [str(each) for each in survivors if not each.is_in(FRAME)] == []
    assert [str(each) for each in survivors if not is_found_in_text(each)] == []
