"""A person at the console and a controller on the serial port: one of them at a time, told why."""

from dataclasses import dataclass

import pytest

from bootgraft_agent.attendance import Attendance
from bootgraft_agent.errors import OccupiedError


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_controller_is_refused_while_a_person_has_begun_and_not_afterwards() -> None:
    turns = Attendance(person=True)
    with pytest.raises(OccupiedError, match="a person works at this machine's own console"):
        turns.begin_work()
    turns.leave()
    turns.begin_work()
    assert not turns.has_person


def test_a_person_begins_only_when_nothing_is_done_for_a_controller() -> None:
    turns = Attendance()
    turns.begin_work()
    assert turns.try_begin() is False
    turns.end_work()
    assert turns.try_begin() is True


def test_the_time_without_a_controller_begins_anew_with_each_word_of_one() -> None:
    clock = Clock()
    turns = Attendance(now=clock)
    clock.now = 59
    assert turns.seconds_without_controller == 59
    turns.begin_work()
    clock.now = 500
    assert turns.seconds_without_controller == 0
    turns.end_work()
    clock.now = 510
    assert turns.seconds_without_controller == 10
    turns.note_controller()
    assert turns.seconds_without_controller == 0
