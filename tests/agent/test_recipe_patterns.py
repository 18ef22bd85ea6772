"""A recipe's patterns: they mean what RE2 means by them, and nothing makes them slow."""

import random
import time

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from bootgraft_agent.errors import RefusedError
from bootgraft_agent.recipe_file.patterns import (
    MAX_PATTERN,
    MAX_WORK,
    Pattern,
    PatternError,
    Work,
    escape,
)

_LATIN1 = re2.Options()
_LATIN1.encoding = re2.Options.Encoding.LATIN1

_ATOMS = [
    *("a", "b", "-", " ", ".", "\\.", "ä", "[ab]", "[^a]", "[a-c0-9]", "[]a]", "[a-]", "[\\w-]"),
    *("\\w", "\\W", "\\d", "\\s", "\\S", "\\b", "\\B", "^", "$", "\\t", "{", "}", "a{,2}"),
]
_REPEATS = ["*", "+", "?", "{2}", "{1,2}", "{1,}", "*?", "+?", "??", "{1,2}?", "{0}", "{0,3}"]


def _deeper(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map("({0[0]}|{0[1]})".format),
        inner.map("({})".format),
        inner.map("(?:{})".format),
        st.tuples(inner, st.sampled_from(_REPEATS)).map("(?:{0[0]}){0[1]}".format),
    )


_PATTERNS = st.tuples(
    st.sampled_from(["", "(?i)"]), st.recursive(st.sampled_from(_ATOMS), _deeper, max_leaves=8)
).map("".join)
_LINES = st.lists(st.sampled_from([b"a", b"b", b"A", b"-", b" ", b"1", b".", b"\xc3\xa4", b"\xff"]))


@given(_PATTERNS, _LINES.map(b"".join))
def test_a_pattern_finds_what_re2_finds(text: str, line: bytes) -> None:
    try:
        pattern = Pattern(text)
    except PatternError:
        return
    found = pattern.search(line, Work())
    # A character of several bytes is one to us; RE2 sees the bytes, and may not repeat the last.
    expected = re2.compile(text.replace("ä", "(?:ä)").encode(), _LATIN1).search(line)
    assert pattern.matches(line, Work()) == (expected is not None)
    if expected is None:
        assert found is None
        return
    assert found is not None
    numbers = range(pattern.groups + 1)
    spans = [None if expected.span(n) == (-1, -1) else expected.span(n) for n in numbers]
    assert list(found.spans) == spans


@given(st.text(alphabet="ab(){}[]|*+?.^$\\-0123,:ä ", max_size=30))
def test_whatever_is_accepted_is_accepted_by_re2(text: str) -> None:
    try:
        Pattern(text)
    except PatternError:
        return
    re2.compile(text.encode(), _LATIN1)


@given(st.text(alphabet=st.characters(exclude_characters="\n", exclude_categories=["Cs"])))
def test_an_escaped_text_matches_itself_alone(text: str) -> None:
    if len(escape(text)) > MAX_PATTERN - 2:
        return
    pattern = Pattern(f"^{escape(text)}$")
    assert pattern.matches(text.encode(), Work())
    assert not pattern.matches(text.encode() + b"x", Work())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("(a", "a ( without its )"),
        ("a)", "a ) without its ("),
        ("[a", "a [ without its ]"),
        ("*a", "a * with nothing before it"),
        ("a**", "a repetition of a repetition"),
        ("(a*)*", "a repetition of what may match nothing"),
        ("(?=a)", "(? with something else"),
        ("(a)\\1", "\\1 is not supported"),
        ("a{101}", "more than 100 repetitions"),
        ("a{99999999999}", "more than 100 repetitions"),
        ("a{3,2}", "in the wrong order"),
        ("[b-a]", "in the wrong order"),
        ("[ä]", "other characters than ASCII"),
        ("[[:alpha:]]", "[: :] is not supported"),
        ("a\\", "a backslash with nothing after it"),
        ("a\nb", "a line's end"),
        ("(a)" * 10, "more than 9 groups"),
        ("(?:" * 31 + "a" + ")" * 31, "more than 30 groups in each other"),
        ("(?:a{100}){100}", "it is too long"),
        ("a" * 1001, "at most 1000 are allowed"),
    ],
)
def test_what_is_no_pattern_is_refused_in_words(text: str, problem: str) -> None:
    with pytest.raises(PatternError) as caught:
        Pattern(text)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["(a|a)+$", "(?:a+)+$", "(.*)(.*)(.*)(.*)(.*)x", "a?" * 90 + "a" * 90 + "$", "(?:a|b|ab)+c"],
)
def test_patterns_made_to_blow_up_take_time_in_proportion(text: str) -> None:
    work = Work()
    pattern = Pattern(text)
    for length in (2000, 4000, 8000):
        before = work.left
        pattern.search(b"a" * length + b"b", work)
        assert before - work.left < 4000 * length


def test_work_has_an_end_in_reasonable_time() -> None:
    # The automaton of this one has 2**90 states.
    pattern = Pattern("a.{90}b$")
    chance = random.Random(5)  # noqa: S311 - the same line every time
    line = bytes(chance.choice(b"ab") for _ in range(20_000))
    work = Work(MAX_WORK // 20)
    start = time.monotonic()
    with pytest.raises(RefusedError, match="too much work"):
        any(pattern.matches(line, work) for _ in range(1000))
    assert time.monotonic() - start < 20
