"""Edits of a guest's texts: what they are about changes, and not a byte besides."""

import contextlib
import re
import shlex
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootgraft_agent import grub
from bootgraft_agent.recipe_file import (
    argument_edits,
    fstab_edits,
    ini_edits,
    line_edits,
    variable_edits,
)
from bootgraft_agent.recipe_file.argument_edits import ArgumentEdit
from bootgraft_agent.recipe_file.line_edits import Anchors
from bootgraft_agent.recipe_file.patterns import Match, Pattern, Work
from bootgraft_agent.recipe_file.templates import parse_template
from bootgraft_agent.recipe_file.text_lines import EditError, body, split_lines

ANYWHERE = Anchors()

_LINES = st.lists(
    st.sampled_from(
        [
            b"",
            b"a",
            b"b = 1",
            b"B=2\r",
            b"  b=3",
            b"# b=4",
            b"[s]",
            b"[t]\r",
            b"\xff\xfe b",
            b"b='x'",
            *(b'b="$x"', b"export b=5 # why", b"c=1;b=2", b"\t", b"b", b"b=6\\", b"b==7", b"b = "),
        ]
    )
)
_TEXTS = st.tuples(_LINES.map(b"\n".join), st.sampled_from([b"", b"\n", b"\r\n"])).map(b"".join)


def _lines(data: bytes) -> list[bytes]:
    """Give the lines without their ends; a missing last end is no difference."""
    return [body(line) for line in split_lines(data)]


def _without(data: bytes, changed: bytes) -> None:
    """Assert that an edit has changed a line, or added some, and left the rest as it was."""
    before, after = split_lines(data), split_lines(changed)
    start = 0
    while start < min(len(before), len(after)) and before[start] == after[start]:
        start += 1
    end = 0
    while end < min(len(before), len(after)) - start and before[-1 - end] == after[-1 - end]:
        end += 1
    rest = before[start : len(before) - end]
    assert len(rest) <= 1, (data, changed)


# Lines


@given(_TEXTS, st.lists(st.sampled_from([b"a", b"new", b"b = 1"]), min_size=1))
def test_ensured_lines_are_there_once_and_all_others_stay(data: bytes, wanted: list[bytes]) -> None:
    changed = line_edits.ensure_lines(data, wanted, ANYWHERE, Work())
    assert set(wanted) <= set(_lines(changed))
    assert changed.startswith(data)
    assert line_edits.ensure_lines(changed, wanted, ANYWHERE, Work()) == changed


@given(_TEXTS)
def test_removed_lines_are_gone_and_all_others_stay(data: bytes) -> None:
    pattern = Pattern("b ?=")
    changed = line_edits.remove_lines(data, pattern, ANYWHERE, "any", Work())
    assert changed == b"".join(x for x in split_lines(data) if not re.search(b"b ?=", x))


@given(_TEXTS)
def test_replacing_changes_what_matches_once_in_each_line(data: bytes) -> None:
    new = line_edits.expand(parse_template(r"<\1{v}\\>"), {"v": r"\1"})
    changed = line_edits.replace_in_lines(data, Pattern("(b) ?="), new, ANYWHERE, "any", Work())
    expected = [re.sub(rb"(b) ?=", rb"<\1\\1\\>", x, count=1) for x in split_lines(data)]
    assert changed == b"".join(expected)


@pytest.mark.parametrize(
    ("after", "before", "expected"),
    [
        (None, None, b"one\r\ntwo\r\nthree\r\nnew\r\n"),
        ("^one$", None, b"one\r\nnew\r\ntwo\r\nthree"),
        (None, "^three$", b"one\r\ntwo\r\nnew\r\nthree"),
        ("^one$", "^three$", b"one\r\nnew\r\ntwo\r\nthree"),
        ("three", None, b"one\r\ntwo\r\nthree\r\nnew\r\n"),
    ],
)
def test_lines_go_beside_their_anchors(
    after: str | None, before: str | None, expected: bytes
) -> None:
    anchors = Anchors(Pattern(after) if after else None, Pattern(before) if before else None)
    data = b"one\r\ntwo\r\nthree"
    assert line_edits.ensure_lines(data, [b"new"], anchors, Work()) == expected


def test_an_anchor_that_is_missing_or_matches_the_new_line_is_refused() -> None:
    with pytest.raises(EditError, match="no line matches the anchor four"):
        line_edits.ensure_lines(b"one\n", [b"x"], Anchors(after=Pattern("four")), Work())
    anchors = Anchors(Pattern("two"), Pattern("one"))
    with pytest.raises(EditError, match="behind the other anchor"):
        line_edits.ensure_lines(b"one\ntwo\n", [b"x"], anchors, Work())
    with pytest.raises(EditError, match="matches the new lines themselves"):
        line_edits.ensure_lines(b"one\n", [b"one x"], Anchors(before=Pattern("^one")), Work())


def test_an_edit_between_anchors_leaves_the_lines_outside() -> None:
    data = b"[a]\nx=1\n[b]\nx=1\n[c]\nx=1\n"
    anchors = Anchors(Pattern(r"^\[b\]$"), Pattern(r"^\["))
    changed = line_edits.remove_lines(data, Pattern("^x="), anchors, 1, Work())
    assert changed == b"[a]\nx=1\n[b]\n[c]\nx=1\n"


@pytest.mark.parametrize(("count", "fits"), [(2, True), (1, False), ("some", True), ("any", True)])
def test_an_edit_must_find_its_place_as_often_as_said(count: int | str, fits: bool) -> None:
    data, pattern = b"a\nb\na\n", Pattern("a")
    if fits:
        assert line_edits.remove_lines(data, pattern, ANYWHERE, count, Work()) == b"b\n"  # type: ignore[arg-type]
    else:
        with pytest.raises(EditError, match="2 lines match a, and 1 must"):
            line_edits.remove_lines(data, pattern, ANYWHERE, count, Work())  # type: ignore[arg-type]


def test_a_group_without_a_part_is_empty() -> None:
    new = line_edits.expand(parse_template(r"\2-\0"), {})
    assert new(b"xab", Match(((1, 3), (1, 3), None))) == b"-ab"


# Sections and keys


@given(_TEXTS, st.sampled_from([b"", b"s", b"t", b"new"]), st.sampled_from([b"", b"1", b"x y"]))
def test_a_key_is_set_or_refused_and_all_else_stays(
    data: bytes, section: bytes, value: bytes
) -> None:
    try:
        changed = ini_edits.set_key(data, section, b"b", value)
    except EditError:
        return
    _without(data, changed)
    assert ini_edits.get_key(changed, section, b"b") == value
    assert ini_edits.set_key(changed, section, b"b", value) == changed
    gone = ini_edits.unset_key(changed, section, b"b")
    assert ini_edits.get_key(gone, section, b"b") is None


@pytest.mark.parametrize(
    ("data", "changed"),
    [
        (b"[s]\nk = 1 \n", b"[s]\nk = 2 \n"),
        (b"[s]\r\nk=1\r\n\r\n[t]\r\n", b"[s]\r\nk=2\r\n\r\n[t]\r\n"),
        (
            b"[s]\n# k=1\nj = 0\n\n# end\n[t]\nk=3\n",
            b"[s]\n# k=1\nj = 0\nk = 2\n\n# end\n[t]\nk=3\n",
        ),
        (b"[t]\nk=1", b"[t]\nk=1\n\n[s]\nk=2\n"),
        (b"", b"[s]\nk=2\n"),
        (b"[s]\nk=", b"[s]\nk=2"),
        (b"[s]\n[s]\nk=1\n", b"[s]\n[s]\nk=2\n"),
    ],
)
def test_a_key_gets_its_value_where_it_belongs(data: bytes, changed: bytes) -> None:
    assert ini_edits.set_key(data, b"s", b"k", b"2") == changed


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"[s]\nk=1\nk=2\n", "more than once: lines 2 and 3"),
        (b"[s]\nk=1\\\n2\n", "goes on in line 3"),
        (b"[s]\nk=1\n  2\n", "goes on in line 3"),
        (b"[s]\nj=1\\\nk=1\n", "line 2 goes on in the next"),
        (b"[s]\nj=1\\\n[t]\n", "line 2 goes on in the next"),
    ],
)
def test_a_key_that_is_not_clear_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(EditError, match=problem):
        ini_edits.set_key(data, b"s", b"k", b"2")


# Variables

_VALUES = st.text(
    alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n")
).map(str.encode)


@given(_TEXTS, _VALUES)
def test_a_shell_s_variable_is_set_or_refused_and_all_else_stays(data: bytes, value: bytes) -> None:
    try:
        changed = variable_edits.set_shell(data, b"b", value)
    except EditError:
        return
    _without(data, changed)
    assert variable_edits.get_shell(changed, b"b") == value
    assert variable_edits.set_shell(changed, b"b", value) == changed
    with contextlib.suppress(EditError):  # another line of it may go on in the next
        gone = variable_edits.unset_shell(changed, b"b")
        assert variable_edits.get_shell(gone, b"b") is None


@pytest.mark.parametrize(
    "value", ["", "a b", "it's", '"', "$HOME `x` \\", "a;b|c&d", "# no comment", "ä*?[x]~", "\t"]
)
@pytest.mark.parametrize("old", ["", "v=1\n", "v='1'\n", 'v="1"\n', "export v=1 # why\n", "v=\n"])
def test_a_shell_reads_the_value_that_was_set(old: str, value: str) -> None:
    changed = variable_edits.set_shell(old.encode(), b"v", value.encode())
    script = changed + b'\nprintf "%s" "$v"\n'
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, check=True)
    assert done.stdout == value.encode()
    assert variable_edits.get_shell(f"v={shlex.quote(value)}\n".encode(), b"v") == value.encode()


@pytest.mark.parametrize(
    ("data", "changed"),
    [
        (b"A=0\nV='x'\n", b"A=0\nV='2'\n"),
        (b'V="x" # why\r\n', b'V="2" # why\r\n'),
        (b"  export V=x\n", b"  export V=2\n"),
        (b"V=1\nV=3\n", b"V=1\nV=2\n"),
        (b"#V=1", b"#V=1\nV=2\n"),
        (b"V=$(x)\n", None),
        (b"x a \\", None),
        (b"V=a; B=c\n", None),
        (b"V='a\nb'\n", None),
        (b"V=a\\\nb\n", None),
        (b"V+=a\n", None),
        (b"V=a make\n", None),
        (b"X='\nV=1\n'\nV=3\n", b"X='\nV=1\n'\nV=2\n"),
        (b"x a \\\nV=1\n", b"x a \\\nV=1\nV=2\n"),
    ],
)
def test_the_assignment_that_decides_is_changed(data: bytes, changed: bytes | None) -> None:
    if changed is None:
        with pytest.raises(EditError, match="V"):
            variable_edits.set_shell(data, b"V", b"2")
    else:
        assert variable_edits.set_shell(data, b"V", b"2") == changed


@given(_TEXTS, st.sampled_from([b"", b"1", b"x = y"]))
def test_a_plain_key_is_set_and_all_else_stays(data: bytes, value: bytes) -> None:
    changed = variable_edits.set_plain(data, b"b", value)
    _without(data, changed)
    assert variable_edits.set_plain(changed, b"b", value) == changed
    assert b"b" not in [
        line.partition(b"=")[0].strip()
        for line in _lines(variable_edits.unset_plain(changed, b"b"))
        if b"=" in line
    ]


def _grubenv(content: bytes) -> bytes:
    return (b"# GRUB Environment Block\n" + content).ljust(1024, b"#")


def test_grub_s_environment_stays_a_block() -> None:
    data = _grubenv(b"# WARNING\nsaved_entry=0\nkernelopts=root=x \\\\ y\n")
    assert variable_edits.get_grubenv(data, b"kernelopts") == b"root=x \\ y"
    changed = variable_edits.set_grubenv(data, b"saved_entry", b"1")
    assert changed == _grubenv(b"# WARNING\nsaved_entry=1\nkernelopts=root=x \\\\ y\n")
    longer = variable_edits.set_grubenv(changed, b"new", b"a\\b\nc")
    assert len(longer) == 1024
    assert variable_edits.get_grubenv(longer, b"new") == b"a\\b\nc"
    assert variable_edits.unset_grubenv(longer, b"new") == changed
    assert variable_edits.set_grubenv(b"", b"a", b"b") == _grubenv(b"a=b\n")
    with pytest.raises(EditError, match="no room"):
        variable_edits.set_grubenv(data, b"a", b"x" * 1000)
    with pytest.raises(EditError, match="no environment block"):
        variable_edits.set_grubenv(b"a=b\n", b"a", b"c")


# fstab

FSTAB = b"""\
# <file system> <mount point>   <type>  <options>       <dump>  <pass>
/dev/xvda2\t/       ext3    defaults,errors=remount-ro        0 1
  LABEL=b\\040c /boot ext2 ro\t0 0 # why
/dev/xvda3 none swap sw 0 0\r
/dev/hdc /media/cdrom udf,iso9660 user,noauto 0 0
/dev/VG/root /srv xfs
proc /proc proc"""


def _pick(mount_point: bytes) -> list[fstab_edits.Entry]:
    return [e for e in fstab_edits.entries(FSTAB) if e.field("mount_point") == mount_point]


def test_fields_of_an_fstab_are_what_mount_means() -> None:
    found = [each.fields[:2] for each in fstab_edits.entries(FSTAB)]
    assert found == [
        (b"/dev/xvda2", b"/"),
        (b"LABEL=b c", b"/boot"),
        (b"/dev/xvda3", b"none"),
        (b"/dev/hdc", b"/media/cdrom"),
        (b"/dev/VG/root", b"/srv"),
        (b"proc", b"/proc"),
    ]
    assert fstab_edits.root_device(FSTAB) == b"/dev/xvda2"


def test_a_field_is_changed_where_it_stands() -> None:
    changed = fstab_edits.set_fields(FSTAB, _pick(b"/"), {"type": b"ext4", "pass": b"2"})
    assert changed == FSTAB.replace(b"/       ext3", b"/       ext4").replace(
        b"ro        0 1", b"ro        0 2"
    )
    changed = fstab_edits.set_fields(FSTAB, _pick(b"/boot"), {"device": b"LABEL=d e#f"})
    assert changed == FSTAB.replace(b"LABEL=b\\040c", b"LABEL=d\\040e\\043f")
    changed = fstab_edits.set_fields(FSTAB, _pick(b"/srv"), {"pass": b"2"})
    assert changed == FSTAB.replace(b"/srv xfs", b"/srv xfs\tdefaults\t0\t2")


def test_options_are_taken_away_and_added() -> None:
    def options(add: list[bytes], remove: list[bytes]) -> bytes:
        changed = fstab_edits.edit_options(FSTAB, _pick(b"/"), add, remove)
        return fstab_edits.entries(changed)[0].field("options")

    assert options([b"noatime"], []) == b"defaults,errors=remount-ro,noatime"
    assert options([b"errors=panic"], []) == b"defaults,errors=panic"
    assert options([], [b"errors"]) == b"defaults"
    assert options([], [b"errors=panic"]) == b"defaults,errors=remount-ro"
    assert options([], [b"errors", b"defaults"]) == b"defaults"
    with pytest.raises(EditError, match="no single mount option"):
        options([b"a,b"], [])


def test_devices_are_named_by_uuid_where_it_is_known() -> None:
    chosen = fstab_edits.entries(FSTAB)
    changed, unknown = fstab_edits.name_by_uuid(FSTAB, chosen, {"/": "1-2", "swap": "3-4"})
    expected = FSTAB.replace(b"/dev/xvda2", b"UUID=1-2").replace(b"/dev/xvda3", b"UUID=3-4")
    assert (changed, unknown) == (expected, [])
    changed, unknown = fstab_edits.name_by_uuid(FSTAB, chosen, {"/dev/xvda3": "3-4"})
    assert (changed, unknown) == (FSTAB.replace(b"/dev/xvda3", b"UUID=3-4"), ["/dev/xvda2"])


def test_an_entry_is_added_once() -> None:
    new = {"device": b"tmpfs", "mount_point": b"/my dir", "type": b"tmpfs", "options": b"size=1m"}
    changed = fstab_edits.ensure_entry(FSTAB, new)
    assert changed == FSTAB + b"\ntmpfs\t/my\\040dir\ttmpfs\tsize=1m\t0\t0\n"
    assert fstab_edits.ensure_entry(changed, new) == changed
    changed = fstab_edits.ensure_entry(
        FSTAB, {"device": b"/dev/xvda3", "mount_point": b"none", "type": b"swap", "pass": b"1"}
    )
    assert changed == FSTAB.replace(b"swap sw 0 0", b"swap sw 0 1")


def test_an_entry_is_taken_away_with_its_line_alone() -> None:
    changed = fstab_edits.delete_entries(FSTAB, _pick(b"none"))
    assert changed == FSTAB.replace(b"/dev/xvda3 none swap sw 0 0\r\n", b"")


_FSTAB_LINES = st.lists(
    st.sampled_from([*FSTAB.split(b"\n"), b"", b"one", b"# x", b"/dev/sda1 / ext3 a 0 0 0 0"])
)


@given(_FSTAB_LINES.map(b"\n".join), st.sampled_from(fstab_edits.FIELDS), st.binary(min_size=1))
def test_a_field_is_read_back_and_all_other_fields_stay(
    data: bytes, field: str, value: bytes
) -> None:
    if b"\0" in value:
        return
    entries = [each for each in fstab_edits.entries(data) if len(each.fields) > 2]
    if not entries:
        return
    entry = entries[0]
    changed = fstab_edits.set_fields(data, [entry], {field: value})
    _without(data, changed)
    after = next(each for each in fstab_edits.entries(changed) if each.place == entry.place)
    assert after.field(field) == value
    for other in fstab_edits.FIELDS[: len(entry.fields)]:
        assert other == field or after.field(other) == entry.field(other)


# Kernel arguments

_ARGUMENTS = st.lists(
    st.sampled_from(
        [
            *(
                b"quiet",
                b"root=/dev/xvda1",
                b"console=tty0",
                b"console=hvc0",
                b"--",
                b"a=b",
                b'"x y"',
            ),
            *(b"  ", b'dyndbg="file x +p"', b"init=/bin/sh"),
        ]
    )
).map(b" ".join)
_EDITS = st.builds(
    ArgumentEdit,
    add=st.lists(st.sampled_from([b"quiet", b"console=ttyS0", b"a"]), max_size=2).map(tuple),
    assign=st.lists(
        st.tuples(st.sampled_from([b"root", b"b", b"new"]), st.sampled_from([b"1", b""])),
        max_size=2,
        unique_by=lambda pair: pair[0],
    ).map(tuple),
    remove=st.lists(st.sampled_from([b"console", b"console=hvc0", b"x"]), max_size=2).map(tuple),
)


@given(_ARGUMENTS, _EDITS)
def test_arguments_become_what_is_wanted_and_a_second_time_changes_nothing(
    arguments: bytes, edit: ArgumentEdit
) -> None:
    changed = edit.apply(arguments)
    words = changed.partition(b" -- ")[0].split() if not changed.startswith(b"--") else []
    for name, value in edit.assign:
        assert words.count(name + b"=" + value) == 1
        assert sum(word.startswith(name + b"=") for word in words) == 1
    for argument in edit.add:
        assert argument in words
    assert edit.apply(changed) == changed
    kept = [w for w in arguments.split() if w in (b"--", b"init=/bin/sh", b'dyndbg="file')]
    assert [w for w in changed.split() if w in (b"--", b"init=/bin/sh", b'dyndbg="file')] == kept


@pytest.mark.parametrize(
    ("arguments", "edit", "changed"),
    [
        (b"ro  quiet\trhgb", ArgumentEdit(remove=(b"quiet",)), b"ro\trhgb"),
        (b"quiet ro", ArgumentEdit(remove=(b"quiet",)), b"ro"),
        (b"ro quiet", ArgumentEdit(add=(b"a=1",)), b"ro quiet a=1"),
        (b"", ArgumentEdit(add=(b"a=1",)), b"a=1"),
        (b"ro -- quiet", ArgumentEdit(add=(b"quiet",)), b"ro quiet -- quiet"),
        (b"-- x", ArgumentEdit(add=(b"quiet",)), b"quiet -- x"),
        (b"a=1 ro a=2", ArgumentEdit(assign=((b"a", b"3"),)), b"a=3 ro"),
        (
            b"root=/dev/hda1 r=/dev/hda1",
            ArgumentEdit(devices=((b"/dev/hda1", b"UUID=u"),)),
            b"root=UUID=u r=/dev/hda1",
        ),
    ],
)
def test_an_argument_is_changed_where_it_stands(
    arguments: bytes, edit: ArgumentEdit, changed: bytes
) -> None:
    assert edit.apply(arguments) == changed


def test_an_argument_is_not_put_in_a_quote_that_is_never_closed() -> None:
    edit = ArgumentEdit(add=(b"x",))
    assert edit.apply(b'a="1 2" --  "') == b'a="1 2" x --  "'
    with pytest.raises(EditError, match="never closed"):
        edit.apply(b'ro a="1')
    menu = b'title A\nkernel /vmlinuz a="1\ntitle B\nkernel /vmlinuz ro\n'
    changed, odd = argument_edits.edit_menu(menu, edit.apply, default_only=False, saved=0)
    assert (changed, odd) == (menu.replace(b"vmlinuz ro", b"vmlinuz ro x"), ["A"])


MENU = b"""\
default 1
# kopt=root=/dev/xvda1 ro
title memory test
\tkernel /memtest86+.bin
title Linux\r
\troot (hd0,0)
\tkernel  /vmlinuz-2.6 root=/dev/xvda1 ro\r
\tinitrd /initrd.img
title Xen
\tkernel /xen.gz dom0_mem=1G
\tmodule /vmlinuz-2.6-xen root=/dev/xvda1
\tmodule /initrd.img
title old
\tkernel --no-mem-option /bzImage"""


def test_every_linux_entry_of_a_menu_is_edited_and_no_other_line() -> None:
    edit = ArgumentEdit(add=(b"x=1",))
    changed, odd = argument_edits.edit_menu(MENU, edit.apply, default_only=False, saved=0)
    assert changed == (
        MENU.replace(b"xvda1 ro", b"xvda1 ro x=1")
        .replace(b"xen root=/dev/xvda1", b"xen root=/dev/xvda1 x=1")
        .replace(b"/bzImage", b"/bzImage x=1")
    )
    assert odd == []
    changed, odd = argument_edits.edit_menu(MENU, edit.apply, default_only=True, saved=0)
    assert changed == MENU.replace(b"xvda1 ro\r", b"xvda1 ro x=1\r")


def test_a_line_that_is_joined_from_several_stays_and_is_named() -> None:
    menu = b"title A\nkernel /vmlinuz \\\n ro\ntitle B\nkernel /vmlinuz ro\n"
    edit = ArgumentEdit(add=(b"x",)).apply
    changed, odd = argument_edits.edit_menu(menu, edit, default_only=False, saved=0)
    assert changed == menu.replace(b"vmlinuz ro", b"vmlinuz ro x")
    assert odd == ["A"]


def test_default_grub_is_edited_in_the_variable_that_has_the_argument() -> None:
    data = b'GRUB_CMDLINE_LINUX_DEFAULT="quiet a=1"\nGRUB_CMDLINE_LINUX=""\n'

    def edited(**values: tuple[object, ...]) -> bytes:
        edit = ArgumentEdit(**values)  # type: ignore[arg-type]
        return argument_edits.edit_default_grub(data, edit, "GRUB_CMDLINE_LINUX")

    assert edited(add=(b"b=1",)) == data.replace(b'LINUX=""', b'LINUX="b=1"')
    assert edited(add=(b"quiet",)) == data
    assert edited(remove=(b"quiet",)) == data.replace(b"quiet a", b"a")
    assert edited(assign=((b"a", b"2"),)) == data.replace(b"a=1", b"a=2")
    with pytest.raises(EditError, match="computed"):
        argument_edits.edit_default_grub(
            b'GRUB_CMDLINE_LINUX="$x"\n', ArgumentEdit(add=(b"a",)), "GRUB_CMDLINE_LINUX"
        )


def test_a_loader_entry_is_edited_in_its_options() -> None:
    edit = ArgumentEdit(add=(b"x=1",)).apply
    data = b"title a\noptions root=UUID=1 ro\nlinux /vmlinuz\n"
    changed = argument_edits.edit_loader_entry(data, edit)
    assert changed == data.replace(b" ro\n", b" ro x=1\n")
    assert argument_edits.edit_loader_entry(b"title a", edit) == b"title a\noptions x=1\n"
    bound = b"options $kernelopts\n"
    assert argument_edits.edit_loader_entry(bound, edit) == bound


_MENU_LINES = st.lists(
    st.sampled_from(
        [
            *(b"title a", b"default 1", b"timeout=5", b"# kopt=ro", b"", b"root (hd0,0)", b"\\"),
            *(b"kernel /vmlinuz ro", b"\tkernel /xen.gz", b"module /vmlinuz-xen ro\r", b"boot"),
            *(b"kernel --type=linux /vmlinuz\\", b"kernel=/bzImage", b"initrd /i", b"#x \\"),
        ]
    )
)


@given(_MENU_LINES.map(b"\n".join), st.booleans())
def test_a_menu_keeps_its_entries_and_their_other_lines(data: bytes, default_only: bool) -> None:
    edit = ArgumentEdit(add=(b"x=1",))
    changed, _ = argument_edits.edit_menu(data, edit.apply, default_only=default_only, saved=0)
    before, after = grub.parse_menu(data), grub.parse_menu(changed)
    assert [entry.title for entry in after.entries] == [entry.title for entry in before.entries]
    assert (after.default, after.timeout) == (before.default, before.timeout)
    for old, new in zip(before.entries, after.entries, strict=True):
        for one, other in zip(old.commands, new.commands, strict=True):
            assert other.name == one.name
            assert other.argument in (one.argument, one.argument.rstrip() + b" x=1")
    again, _ = argument_edits.edit_menu(changed, edit.apply, default_only=default_only, saved=0)
    assert again == changed
