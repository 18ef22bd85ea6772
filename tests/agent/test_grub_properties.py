"""What holds for every menu.lst and device.map, whatever bytes they are."""

import time
from collections.abc import Callable, Iterator

from hypothesis import assume, given
from hypothesis import strategies as st

from bootgraft_agent import grub
from bootgraft_agent.device_map import parse_device_map, set_device

MARKER = b"bootgraft"
TITLE = b"Grafted"
BODY = (b"root (hd0,0)", b"kernel /shim", b"module /vmlinuz-xen ro root=/dev/hda2")

MENU_PIECES = [
    b"title", b"default", b"timeout", b"hiddenmenu", b"fallback", b"password", b"root", b"kernel",
    b"saved", b"0", b"1", b"12", b"0x", b"x", b"=", b" ", b"\t", b"#", b"\r", b"\n", b"\r\n", b"\\",
    b"\\\n", b"\\\r\n", b"\0", b"\xff", b"a" * 700, b"0" * 749, b" " * 750, b"title a\nroot\n",
    b"# bootgraft: begin\n", b"# bootgraft: end\n", b"default 1\n", b"timeout 3\n",
]  # fmt: skip
MENUS = st.one_of(st.binary(max_size=200), st.lists(st.sampled_from(MENU_PIECES)).map(b"".join))
MAP_PIECES = [
    b"(hd0)", b"(hd1)", b"(fd0)", b"(hd", b"0", b"1", b")", b" ", b"\t", b"\n", b"\r", b"#", b"-",
    b"/dev/hda", b"\0", b"\xff", b"x" * 600,
]  # fmt: skip
MAPS = st.one_of(st.binary(max_size=100), st.lists(st.sampled_from(MAP_PIECES)).map(b"".join))
MAP_LINES = [
    *(b"(hd0)\t/dev/hda\n", b"(hd1) /dev/hdb # b\n", b"(fd0)\t/dev/fd0\n", b"(hd7) /dev/x\r\n"),
    *(b"# a remark\n", b"\n", b"  \t\n"),
]
GOOD_MAPS = st.lists(st.sampled_from(MAP_LINES), unique=True).map(b"".join)
NUMBERS = st.one_of(st.integers(0, 20), st.integers(0, grub.MAXINT))

Edit = Callable[[bytes], bytes]


def read_lines_as_the_source_does(data: bytes) -> Iterator[bytes]:
    """Yield the command lines: get_line_from_config() of GRUB 0.97, byte by byte."""
    line, literal, comment = bytearray(), False, False
    for byte in data.replace(b"\r", b"").replace(b"\t", b" "):
        char = bytes([byte])
        if literal:
            if char == b"\n":
                char = b" "
                line = line[:-1]
            literal = False
        if char == b"\\" and not literal:
            literal = True
        if comment:
            comment = char != b"\n"
        elif not line:
            comment = char == b"#"
            line += b"" if char in b"# \n" else char
        elif char == b"\n":
            yield bytes(line)
            line = bytearray()
        elif len(line) < grub.LINE_LIMIT:
            line += char
    yield bytes(line)


def read_commands(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and argument of the known commands: find_command() and skip_to()."""
    for line in read_lines_as_the_source_does(data):
        text = line.partition(b"\0")[0]
        place = min((place for place in map(text.find, (b" ", b"=")) if place >= 0), default=None)
        name = text[:place]
        if name in grub.KNOWN_COMMANDS:
            yield name, b"" if place is None else text[place:].lstrip(b" =")


def commands_of(menu: grub.Menu) -> list[tuple[bytes, bytes]]:
    commands = [*menu.settings]
    for entry in menu.entries:
        commands += [grub.Command(b"title", entry.title, 0, 0), *entry.commands]
    return [(command.name, command.argument) for command in commands]


def without_dropped_titles(commands: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    following = [*commands[1:], (b"title", b"")]
    return [
        command
        for command, next_command in zip(commands, following, strict=False)
        if not command[0] == next_command[0] == b"title"
    ]


def meaning(menu: grub.Menu, without: bytes = b"") -> list[tuple[bytes, bytes]]:
    """All commands but the settings of one name.

    Without trailing blanks: one may keep a backslash at the end of the file from joining.
    """
    commands, size = commands_of(menu), len(menu.settings)
    kept = [command for command in commands[:size] if command[0] != without] + commands[size:]
    return [(name, argument.rstrip(b" ")) for name, argument in kept]


@given(MENUS)
def test_lines_and_commands_are_those_of_grubs_own_loop(data: bytes) -> None:
    expected = without_dropped_titles(list(read_commands(data)))
    assert commands_of(grub.parse_menu(data)) == expected


@given(MENUS)
def test_entries_are_numbered_in_order_and_their_spans_hold_them_alone(data: bytes) -> None:
    menu = grub.parse_menu(data)
    end = menu.first_title
    for index, entry in enumerate(menu.entries):
        assert entry.index == index
        assert end <= entry.start < entry.end <= len(data)
        (alone,) = grub.parse_menu(data[entry.start : entry.end]).entries
        assert alone.title == entry.title
        end = entry.end
    for command in menu.settings:
        (alone_command,) = grub.parse_menu(data[command.start : command.end]).settings
        assert alone_command.argument == command.argument


@given(MENUS)
def test_hidden_menu_is_commented_and_nothing_else(data: bytes) -> None:
    edited = grub.comment_hidden_menu(data)
    menu = grub.parse_menu(edited)
    hidden = [line for line in grub.parse_menu(data).settings if line.name == b"hiddenmenu"]
    assert not menu.hidden
    assert meaning(grub.parse_menu(data), without=b"hiddenmenu") == meaning(menu)
    assert len(edited) == len(data) + len(hidden)
    for done, line in enumerate(hidden):
        assert edited[line.start + done : line.end + done + 1] == b"#" + data[line.start : line.end]
    assert grub.comment_hidden_menu(edited) == edited


@given(MENUS, NUMBERS)
def test_timeout_is_raised_and_never_lowered(data: bytes, seconds: int) -> None:
    before = grub.parse_menu(data)
    edited = grub.raise_timeout(data, seconds)
    after = grub.parse_menu(edited)
    assert after.timeout == max(before.timeout or 0, seconds)
    assert meaning(before, without=b"timeout") == meaning(after, without=b"timeout")
    assert grub.raise_timeout(edited, seconds) == edited
    check_edited_once(before, edited, b"timeout")


@given(MENUS, NUMBERS)
def test_default_is_what_was_set(data: bytes, index: int) -> None:
    before = grub.parse_menu(data)
    edited = grub.set_default(data, index)
    after = grub.parse_menu(edited)
    assert after.default == index
    assert not after.default_saved
    assert meaning(before, without=b"default") == meaning(after, without=b"default")
    assert grub.set_default(edited, index) == edited
    check_edited_once(before, edited, b"default")


def check_edited_once(before: grub.Menu, edited: bytes, name: bytes) -> None:
    """Only bytes of one line of that name differ, or bytes were added in one place."""
    data = before.data
    common = next(
        (place for place, (old, new) in enumerate(zip(data, edited, strict=False)) if old != new),
        min(len(data), len(edited)),
    )
    removed = next(
        size for size in range(len(data) + 1) if edited[common:].endswith(data[common + size :])
    )
    if removed:
        assert any(
            line.start < common and common + removed <= line.end
            for line in before.settings
            if line.name == name
        )


@given(MENUS)
def test_appending_adds_one_entry_and_changes_no_other(data: bytes) -> None:
    assume(grub.find_marked_entry(data, MARKER) is None)
    before = grub.parse_menu(data)
    edited = grub.append_entry(data, TITLE, BODY, MARKER)
    after = grub.parse_menu(edited)
    *old, new = after.entries
    assert edited.startswith(data)
    assert new.title == TITLE
    assert [b"%s %s" % (line.name, line.argument) for line in new.commands] == [*BODY]
    assert [entry.title.rstrip() for entry in old] == [
        entry.title.rstrip() for entry in before.entries
    ]
    assert meaning(after)[: len(meaning(before))] == meaning(before)
    assert len(after.entries) == len(before.entries) + 1
    assert grub.find_marked_entry(edited, MARKER) == new
    assert grub.append_entry(edited, TITLE, BODY, MARKER) == edited


@given(MENUS, MENUS)
def test_a_marked_entry_is_replaced_in_its_place(data: bytes, tail: bytes) -> None:
    edited = grub.append_entry(data, b"Old", [b"root (hd7,7)"], MARKER) + tail
    entry = grub.find_marked_entry(edited, MARKER)
    assert entry is not None
    replaced = grub.replace_marked_entry(edited, TITLE, BODY, MARKER)
    entries = grub.parse_menu(replaced).entries
    new = entries[entry.index]
    assert replaced.startswith(edited[: entry.start])
    assert new.title == TITLE
    assert [b"%s %s" % (line.name, line.argument) for line in new.commands][:3] == [*BODY]
    assert len(entries) == len(grub.parse_menu(edited).entries)
    assert grub.find_marked_entry(replaced, MARKER) == new
    assert grub.replace_marked_entry(replaced, TITLE, BODY, MARKER) == replaced


@given(MENUS, st.sampled_from([b"", b"--md5 ", b"  "]), st.booleans(), MENUS)
def test_no_password_stays_and_nothing_else_goes(
    head: bytes, option: bytes, commented: bool, tail: bytes
) -> None:
    assume(b"\\" not in head[-3:])
    line = b"#" * commented + b"password " + option + b"Sesame!\n"
    data = head + b"\n" + line + tail
    masked = grub.mask_passwords(data)
    assert b"Sesame" not in masked
    assert grub.mask_passwords(masked) == masked
    for entry_before, entry_after in zip(
        grub.parse_menu(data).entries, grub.parse_menu(masked).entries, strict=True
    ):
        assert entry_before.title == entry_after.title


@given(st.binary(max_size=12))
def test_any_text_splits_into_a_device_and_a_path(text: bytes) -> None:
    device, path = grub.split_path(text)
    assert (device or b"") + path == text


@given(MAPS)
def test_device_map_spans_hold_the_devices(data: bytes) -> None:
    device_map = parse_device_map(data)
    assert device_map.error is None or not device_map.lines
    for line in device_map.lines:
        assert data[line.start : line.end] == line.device


@given(MAPS | GOOD_MAPS, st.sampled_from([b"hd0", b"hd1", b"hd7", b"fd0"]))
def test_a_device_is_set_and_the_other_lines_stay(data: bytes, drive: bytes) -> None:
    before = parse_device_map(data)
    assume(before.error is None)
    assume(b"x" * 600 not in data)
    edited = set_device(data, drive, b"/dev/sda")
    after = {line.drive: line.device for line in parse_device_map(edited).lines}
    assert after == {line.drive: line.device for line in before.lines} | {drive: b"/dev/sda"}
    assert set_device(edited, drive, b"/dev/sda") == edited
    for line in before.lines:
        if line.drive == drive:
            assert edited == data[: line.start] + b"/dev/sda" + data[line.end :]
            return
    assert edited.startswith(data)


def test_a_long_menu_full_of_marks_is_read_in_time() -> None:
    region = b"# " + MARKER + b": begin\n# " + MARKER + b": end\n"
    menu = b"title a\n boot\n" * 5000 + region * 2000
    start = time.monotonic()
    assert grub.find_marked_entry(menu, MARKER) is None
    assert time.monotonic() - start < 5
