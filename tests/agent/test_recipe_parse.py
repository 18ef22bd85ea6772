"""Recipe files are checked: every problem at once, on its line; nothing else ever comes out."""

import contextlib
import re
import subprocess
import sys
import time
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootgraft_agent import recipe_file
from bootgraft_agent.recipe_file import (
    RecipeError,
    check_settings,
    explain,
    parse_recipe,
    parse_recipe_list,
)
from bootgraft_agent.recipe_file.bounds import MAX_SIZE
from bootgraft_agent.recipe_file.parse_actions import PARSERS
from bootgraft_agent.recipe_file.positions import BoundError, find_positions

HEAD = 'version = 1\nname = "a"\ndescription = "b"\n'
LINK = '[[action]]\ndo = "link"\npath = "/etc/x"\nto = "y"\n'


def _problems(text: str | bytes) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text if isinstance(text, bytes) else text.encode(), "r.toml")
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        (r'replace = "^\s*a"', "r.toml:7: not TOML: .*; where it is meant as it is, use 'single"),
        (r'replace = "\bfoo"', "r.toml:7: replace holds a backspace, .* use 'single' ones"),
        ("mode = 0644", "r.toml:7: not TOML: .*; a text, as a mode is, stands in quotes"),
    ],
)
def test_what_people_get_wrong_in_toml_is_told_with_what_to_do(line: str, hint: str) -> None:
    action = '[[action]]\ndo = "lines"\npath = "/etc/x"\n'
    (problem,) = _problems(f'{HEAD}{action}{line}\nwith = "x"\n')
    assert re.match(hint, problem)


def test_a_byte_order_mark_and_windows_line_ends_are_no_mistakes() -> None:
    text = f"{HEAD}{LINK}".replace("\n", "\r\n")
    assert parse_recipe(b"\xef\xbb\xbf" + text.encode(), "r.toml").name == "a"


def test_all_problems_are_told_at_once_each_with_its_line() -> None:
    text = """\
version = 2
name = "two words"
description = "a"
colour = "red"

[parameters.port]
description = "which"
default = "sda"
pattern = "ttyS[0-9]"

[parameters.mac]
description = "a loop's"
required = true

[when]
distribution_version = [">=11, <14", "new"]
boot_loader = "lilo"

[[action]]
do = "copy"
path = "etc/x"
source = "../x"
content = "y"
mode = "644x"

[[action]]
do = "lines"
path = "/etc/../x"
replace = "(a"
with = "b"

[[action]]
do = "dance"

[[action]]
do = "lines"
path = "/etc/{interface}"
replace = "(a)"
with = "\\\\2"
[action.when]
shape = "round"
"""
    assert _problems(text) == [
        "r.toml:1: version must be 1, the only one that is known, not 2",
        "r.toml:2: name may have letters, digits, `.`, `_` and `-`, 64 at most",
        "r.toml:4: unknown key 'colour'; known here: version, name, description, notes, parameters,"
        " when, action",
        "r.toml:8: the default must match ttyS[0-9]",
        "r.toml:11: 'mac' cannot name a parameter: a lower-case letter, then letters, digits, `-`"
        " and `_`; not interface, mac or kernel",
        'r.toml:16: distribution_version must be as "12", ">=10" or ">=10, <13", not \'new\'',
        "r.toml:17: boot_loader must be of grub-legacy, grub2, systemd-boot, none",
        "r.toml:19: copy takes one of source, content; source and content are given",
        "r.toml:21: path must be an absolute path of the guest, not 'etc/x'",
        "r.toml:22: source must not hold `..` or `.`: '../x'",
        "r.toml:24: mode must be octal as \"0644\", not '644x'",
        "r.toml:28: path must not hold `..` or `.`: '/etc/../x'",
        "r.toml:29: replace is no pattern: a ( without its ), at character 3",
        "r.toml:33: do must be one of copy, remove, rename, link, directory, lines, ini, variables,"
        " fstab, grub-arguments, require, not 'dance'",
        "r.toml:37: path has the placeholder {interface}, which nothing here gives a value; write"
        " {{interface} for the text itself",
        "r.toml:39: with names the group \\2, and replace has 1",
        "r.toml:41: unknown key 'shape'; known here: distribution_version, boot_loader,"
        " distribution, architecture, root, present, absent",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "r.toml:1: the key version is missing"),
        (HEAD, "r.toml:1: the key action is missing"),
        (HEAD + "x = [\n1,\n", "r.toml:6: not TOML: Invalid value"),
        (HEAD + "=\n", "r.toml:4: not TOML: Invalid statement"),
        (HEAD.encode() + b"# \xff\n", "r.toml:4: not UTF-8 text"),
        (HEAD + "x = " + "[" * 100_000, "r.toml:4: brackets nested more than 8 deep"),
        (HEAD + "x = " + "{a=" * 50_000, "r.toml:4: brackets nested more than 8 deep"),
        (HEAD + ".".join("a" * 100_000) + " = 1", "r.toml:4: a key of more than 8 parts"),
        (HEAD + "[" + ".".join("a" * 100_000) + "]", "r.toml:4: a key of more than 8 parts"),
        (HEAD + "x = " + "9" * 100_000, "r.toml: cannot be read as TOML"),
        (HEAD + LINK + "x = 0x" + "f" * 100_000, "r.toml:8: unknown key 'x'"),
        ("version = 0x" + "f" * 100_000, "r.toml:1: version must be 1"),
        (HEAD + LINK * 1001, "r.toml: 1001 actions; a recipe has at most 1000"),
        (HEAD + LINK * 100_000, "bytes; a recipe has at most 262144"),
        ("#" * (MAX_SIZE + 1), f"r.toml: {MAX_SIZE + 1} bytes; a recipe has at most {MAX_SIZE}"),
        (HEAD + "action = 3\n", "r.toml:4: actions are tables"),
        (HEAD + "[action]\ndo = 3\n", "r.toml:4: actions are tables"),
        (HEAD + LINK + "mode = true\n", "r.toml:8: unknown key 'mode'; known here: do, for_each"),
    ],
    ids=range(18),
)
def test_a_hostile_file_gets_a_clear_error_soon(text: str | bytes, problem: str) -> None:
    start = time.monotonic()
    assert problem in "\n".join(_problems(text))
    assert time.monotonic() - start < 5


_ROOM = MAX_SIZE - 300  # bytes of a file that is as long as it may be


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"a.b.c.d.e.f.g{number} = 1\n" for number in range(10_000)),
        "".join(f"[a.b.c.d.e.f.g{number}]\n" for number in range(10_000)),
        "x = [" + "{}," * (_ROOM // 3) + "]",
        "x = " + "'''a" * (_ROOM // 4),
        'x = "' + "\\" * _ROOM,
        "[[a]]\n" * (_ROOM // 6),
        ('[[action]]\ndo = "lines"\npath = "/x"\nremove = "(?:a{99}){9}"\n') * 300,
        "".join(
            f'[parameters.a{number}]\ndescription = "x"\ndefault = "{"ab" * 1000}"\n'
            'pattern = "(?:a|b)*a.{90}c"\n'
            for number in range(100)
        ),
    ],
    ids=["keys", "headers", "tables", "quotes", "backslashes", "arrays", "patterns", "values"],
)
def test_a_file_as_long_as_it_may_be_is_read_in_bounded_time(text: str) -> None:
    start = time.monotonic()
    with contextlib.suppress(RecipeError):
        parse_recipe((HEAD + text).encode(), "r.toml")
    assert time.monotonic() - start < 30


def test_many_problems_are_cut_short() -> None:
    problems = _problems(HEAD + '[[action]]\ndo = "x"\n' * 900)
    assert len(problems) == 51
    assert problems[-1] == "r.toml: and 850 problems more"


@given(st.binary(max_size=200))
def test_any_bytes_give_a_recipe_or_its_problems(data: bytes) -> None:
    for each in (data, HEAD.encode() + data, HEAD.encode() + LINK.encode() + data):
        with contextlib.suppress(RecipeError):
            parse_recipe(each, "r.toml")


_SCALARS = st.one_of(
    st.integers(-9, 1 << 70),
    st.booleans(),
    st.floats(allow_nan=False).map(repr),
    st.sampled_from(['""', '"x"', '"/etc/x"', "[]", "{}", "[1]", '["a"]', '{a = "b"}', "1e3"]),
    st.sampled_from(["1979-05-27", "nan", "'{x}'", '"""\n[a]\n"""', '"0644"', '"(a"', "[[1]]"]),
).map(lambda value: str(value).lower() if isinstance(value, bool) else str(value))
_NAMES = """version name description parameters when action do path source content mode owner group
replace parents sha256 recursive missing to ensure remove with after before count section set unset
style device mount_point type add_options remove_options delete by_uuid entry add variable entries
exists size contains message for_each distribution root present absent"""
_KEYS = st.sampled_from(_NAMES.split())
_KINDS = st.sampled_from(tuple(PARSERS))


@given(st.lists(st.tuples(_KINDS, st.dictionaries(_KEYS, _SCALARS, max_size=8)), max_size=4))
def test_any_types_of_values_give_a_recipe_or_its_problems(
    actions: list[tuple[str, dict[str, str]]],
) -> None:
    text = HEAD
    for kind, values in actions:
        text += "\n[[action]]\n"
        text += "".join(
            f"{key} = {value}\n" for key, value in ({"do": f'"{kind}"'} | values).items()
        )
    try:
        explain(parse_recipe(text.encode(), "r.toml"), {})
    except RecipeError as error:
        lines = text.count("\n") + 1
        for problem in error.problems:
            assert 1 <= int(problem.split(":")[1]) <= lines


def _flat(value: object, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    """List the paths of all tables and keys, as positions have them."""
    found = {path} if path else set()
    if isinstance(value, dict):
        for key, each in value.items():
            found |= _flat(each, (*path, key))
    elif isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        found.discard(path)
        for number, each in enumerate(value):
            found |= _flat(each, (*path, number))
    return found


def test_every_key_has_the_line_where_it_stands() -> None:
    text = '''# a comment with "quotes
a = """
[not.a.header]
b = 1 "" """ # more
"quo.ted" = 'x]'
list = [
  "a", # ]
  "b",
]
c . d = 1.5
[t.u]
e = { f = 1, g = [1] }
[[arr]]
h = """a""""
[arr.sub]
i = 1
[[arr]]
j = \'\'\'
[[arr]]
\'\'\'
[[arr.inner]]
k = 2
"\\u0041" = 3
'''
    lines = find_positions(text).lines
    assert {path: line for path, line in lines.items() if len(path) < 5} == {
        ("a",): 2,
        ("quo.ted",): 5,
        ("list",): 6,
        ("c",): 10,
        ("c", "d"): 10,
        ("t",): 11,
        ("t", "u"): 11,
        ("t", "u", "e"): 12,
        ("arr", 0): 13,
        ("arr", 0, "h"): 14,
        ("arr", 0, "sub"): 15,
        ("arr", 0, "sub", "i"): 16,
        ("arr", 1): 17,
        ("arr", 1, "j"): 18,
        ("arr", 1, "inner", 0): 21,
    }
    assert lines["arr", 1, "inner", 0, "A"] == 23
    inline = {("t", "u", "e", "f"), ("t", "u", "e", "g")}
    assert set(lines) >= _flat(tomllib.loads(text)) - inline


@given(st.text(alphabet="a.=[]{}\"'\\#\n \r1", max_size=60))
def test_a_scan_gives_positions_or_a_bound(text: str) -> None:
    with contextlib.suppress(BoundError):
        lines = find_positions(text).lines.values()
        assert all(1 <= line <= text.count("\n") + 1 for line in lines)


RECIPE = """\
version = 1
name = "login"
description = "a login on a serial port"
[parameters.port]
description = "the port"
default = "ttyS0"
pattern = "ttyS[0-9]"
[parameters.word]
description = "a word that nobody sees"
required = true
secret = true
[[action]]
do = "lines"
path = "/etc/inittab"
ensure = "S0:23:respawn:/sbin/getty -L {port} 9600 # {{port} {word}"
missing = "skip"
when = { absent = "/etc/systemd" }
[[action]]
do = "variables"
path = "/etc/sysconfig/network-scripts/ifcfg-{interface}"
for_each = "interfaces"
unset = "HWADDR"
"""


def test_a_recipe_is_explained_with_its_settings_and_no_secret() -> None:
    recipe = parse_recipe(RECIPE.encode(), "r.toml")
    assert explain(recipe, {"port": "ttyS1", "word": "hush"}) == [
        "login: a login on a serial port",
        'parameter port (the port): "ttyS1", as set',
        'parameter word (a word that nobody sees): "********", as set',
        "for any Linux guest",
        '1. in /etc/inittab, see to it that "S0:23:respawn:/sbin/getty -L ttyS1 9600 # {port}'
        ' ********" is there at the end; where it is not there, nothing is done (only for guests'
        ' that have no "/etc/systemd")',
        "2. for each network interface that the guest names, in"
        ' /etc/sysconfig/network-scripts/ifcfg-{interface}, take away "HWADDR"',
    ]


def test_settings_are_checked_all_at_once_and_not_shown() -> None:
    recipe = parse_recipe(RECIPE.encode(), "r.toml")
    with pytest.raises(RecipeError) as caught:
        check_settings(recipe, {"port": "s3cret", "colour": "red"})
    assert caught.value.problems == (
        "login has no parameter 'colour'; it has: port, word",
        "login: the parameter port must match ttyS[0-9]",
        "login needs the parameter word: a word that nobody sees",
    )
    assert check_settings(recipe, {"word": "x"}) == {"port": "ttyS0", "word": "x"}


def test_a_secret_is_no_part_of_a_recipe_s_identity() -> None:
    recipe = parse_recipe(RECIPE.encode(), "r.toml")
    plain = recipe.identity({"word": "x", "port": "ttyS0"})
    assert recipe.identity({"port": "ttyS0", "word": "y"}) == plain
    assert recipe.identity({"port": "ttyS1", "word": "x"}) != plain


def test_a_list_of_recipes_is_read_in_its_order() -> None:
    text = """\
version = 1
[[recipe]]
name = "hyperv-shim"
[[recipe]]
file = "recipes/01-x/recipe.toml"
[recipe.set]
port = "ttyS1"
"""
    shim, other = parse_recipe_list(text.encode(), "recipes.toml")
    assert (shim.name, shim.file, shim.settings, shim.line) == ("hyperv-shim", None, {}, 2)
    assert (other.name, other.file) == (None, "recipes/01-x/recipe.toml")
    assert (other.settings, other.line) == ({"port": "ttyS1"}, 4)


def test_all_problems_of_a_list_are_told_at_once() -> None:
    text = """\
version = 3
[[recipe]]
name = "two words"
file = "../recipe.toml"
[[recipe]]
colour = 1
[recipe.set]
port = 1
"""
    with pytest.raises(RecipeError) as caught:
        parse_recipe_list(text.encode(), "l.toml")
    assert list(caught.value.problems) == [
        "l.toml:1: version must be 1, the only one that is known, not 3",
        "l.toml:2: recipe takes one of name, file; name and file are given",
        "l.toml:3: 'two words' is no recipe's name",
        "l.toml:4: file must not hold `..` or `.`: '../recipe.toml'",
        "l.toml:5: recipe takes one of name, file; none of them is given",
        "l.toml:6: unknown key 'colour'; known here: name, file, set",
        "l.toml:8: 'port' must be a text in quotes of at most 65536",
    ]


def test_recipes_are_checked_on_any_system() -> None:
    """The host side checks and explains them, also on Windows, which has no such files."""
    script = """
import sys
import bootgraft_agent.recipe_file
print(*sorted(name for name in sys.modules if name in {"fcntl", "pwd", "bootgraft_agent.files"}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.strip() == b""


def test_a_run_of_the_shim_alone_loads_no_recipe_files() -> None:
    """A live system under emulation would take seconds for them."""
    script = """
import sys
import bootgraft_agent.recipe_file.facts, bootgraft_agent.recipes.sequence
parts = (f"bootgraft_agent.recipe_file.{name}" for name in ("parse", "model", "evaluate"))
print(*(part for part in parts if part in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.strip() == b""


def test_every_name_of_the_package_is_there() -> None:
    for name in recipe_file.__all__:
        assert getattr(recipe_file, name) is not None
    with pytest.raises(AttributeError):
        recipe_file.nothing  # noqa: B018
