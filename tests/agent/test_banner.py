"""The screen of a result: letters for across a room, everything within 80 x 25."""

import re

import pytest

from bootgraft_agent.banner import COLUMNS, ROWS, big, result_screen
from bootgraft_agent.result import TAKE_BACK, Outcome, Result

LAST = "This machine switches itself off in 60 s."
SEQUENCE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def rows(text: str) -> list[str]:
    return SEQUENCE.sub("", text).split("\r\n")


@pytest.mark.parametrize("outcome", ["grafted", "already-grafted", "refused", "invalid", "left"])
def test_every_outcome_has_its_word_in_big_letters(outcome: Outcome) -> None:
    result = Result(outcome, "A reason.", "A step.")
    lines = [line.strip() for line in rows(result_screen(result, LAST))]
    assert [line.strip() for line in big(result.headline)] == lines[1:8]
    assert f"bootgraft: {result.headline}" in lines
    assert {"A reason.", "What to do now: A step.", LAST} <= set(lines)


def test_a_long_reason_leaves_room_for_the_next_step_and_says_where_the_rest_is() -> None:
    result = Result("left", "because of " * 300, TAKE_BACK)
    lines = rows(result_screen(result, LAST))
    assert len(lines) - 1 < ROWS
    assert max(map(len, lines)) < COLUMNS
    assert "  (the rest is on the serial port)" in lines
    assert f"  {LAST}" in lines
    assert any(line.endswith("from its disk before.") for line in lines)


def test_a_guest_s_text_moves_no_cursor_and_shows_no_password() -> None:
    text = result_screen(Result("refused", "name \x1b[2J\x07 password=hunter2", "x"), LAST)
    assert "\\x1b[2J\\x07" in text
    assert "hunter2" not in text


def test_the_letters_of_both_words_fit_beside_the_margin() -> None:
    for word in ("SUCCESS", "FAILED"):
        assert len(big(word)) == 7
        assert max(map(len, big(word))) <= COLUMNS - 3
