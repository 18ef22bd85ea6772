"""The mark of a run in a machine's notes; the rest of them is other people's."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootgraft_host.hyperv.marks import (
    Mark,
    find_foreign_mark,
    find_marks,
    find_own_mark,
    format_moment,
    own_name,
    with_mark,
    without_mark,
)

TOKEN = "ab" * 16
OTHER = "cd" * 16
MARK = Mark(TOKEN, "graft-pc", "2026-11-23T08:45Z", (r"D:\a b\live.iso", r"D:\x (1), y.iso"))
LINE = (
    "[bootgraft: a run by graft-pc holds this machine since 2026-11-23T08:45Z,"
    r' with "D:\a b\live.iso" and "D:\x (1), y.iso",'
    f' mark {TOKEN}; "bootgraft recover" there restores it]'
)

names = st.from_regex(r"[A-Za-z0-9._-]{1,20}", fullmatch=True)
paths = st.text(
    st.characters(exclude_characters='"\r\n', exclude_categories=["Cc", "Cs"]), min_size=1
)
marks = st.builds(
    Mark,
    token=st.from_regex(r"[0-9a-f]{32}", fullmatch=True),
    holder=names,
    since=st.datetimes().map(format_moment),
    isos=st.lists(paths, max_size=2).map(tuple),
)
notes = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(("\r\n", "\n", "\r"))
    ),
    max_size=6,
).map("".join)


def test_the_line_says_who_holds_the_machine_and_what_restores_it() -> None:
    assert MARK.line == LINE
    assert find_marks(f"before\r\n{LINE}\r\nafter") == (MARK,)


def test_a_run_that_only_watches_names_no_isos() -> None:
    mark = Mark(TOKEN, "graft-pc", "2026-11-23T08:45Z")
    assert "with" not in mark.line
    assert find_marks(mark.line) == (mark,)


def test_a_moment_is_in_utc_to_the_minute() -> None:
    assert format_moment(datetime(2026, 11, 23, 8, 45, 59, tzinfo=UTC)) == "2026-11-23T08:45Z"


def test_a_computers_name_fits_into_a_mark() -> None:
    mark = Mark(TOKEN, own_name(), "2026-11-23T08:45Z")
    assert find_own_mark(mark.line, TOKEN) == mark


@given(notes, marks)
def test_notes_come_back_byte_for_byte(before: str, mark: Mark) -> None:
    marked = with_mark(before, mark)
    assert find_own_mark(marked, mark.token) == mark
    assert without_mark(marked, mark.token) == before
    assert without_mark(before, mark.token) == before


@given(notes, marks, marks)
def test_a_mark_takes_the_place_of_one_with_the_same_token(
    before: str, mark: Mark, other: Mark
) -> None:
    first = Mark(mark.token, other.holder, other.since, other.isos)
    assert with_mark(with_mark(before, first), mark) == with_mark(before, mark)


@pytest.mark.parametrize(
    ("edited", "expected"),
    [
        (f"top\r\nours\r\n{LINE}\r\nbottom", "top\r\nours\r\nbottom"),
        (f"top\n{LINE}\nbottom", "top\nbottom"),
        (f"{LINE}\r\nbottom", "bottom"),
        (f"{LINE} appended", " appended"),
        (f"joined {LINE}", "joined "),
        (LINE.replace("graft-pc", "my-pc"), ""),
        (LINE.replace("there restores it", "there, says Bob"), ""),
        ("nothing of ours", "nothing of ours"),
    ],
)
def test_what_a_person_wrote_around_the_mark_stays(edited: str, expected: str) -> None:
    assert without_mark(edited, TOKEN) == expected


def test_another_runs_mark_is_told_from_ours() -> None:
    other = Mark(OTHER, "other-pc", "2026-11-22T08:45Z")
    both = f"{LINE}\n{other.line}"
    assert find_foreign_mark(both, TOKEN) == other
    assert find_foreign_mark(LINE, TOKEN) is None
    assert find_foreign_mark(LINE, None) == MARK
    assert without_mark(both, TOKEN) == "\n".join(("", other.line))[1:]


@pytest.mark.parametrize(
    "text",
    [
        "[bootgraft: something else]",
        LINE.replace(TOKEN, TOKEN[:-1]),
        LINE.replace("\\", "\n"),
        f"mark {TOKEN};",
    ],
)
def test_other_text_is_no_mark(text: str) -> None:
    assert find_marks(text) == ()
