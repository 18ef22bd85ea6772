"""GRUB legacy's menu file: a lossless model that counts, joins, cuts and ignores as GRUB 0.97 does.

Bytes in, bytes out. An edit changes the bytes it is about and no others.

Sources, in GRUB 0.97: stage2/stage2.c (get_line_from_config, cmain), stage2/cmdline.c
(find_command, skip_to), stage2/builtins.c (default, fallback, hiddenmenu, timeout),
stage2/char_io.c (safe_parse_maxint), stage2/disk_io.c (set_device).
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

# NEW_HEAPSIZE: bytes of a logical line that GRUB keeps.
LINE_LIMIT = 1500
# MAX_FALLBACK_ENTRIES
FALLBACK_LIMIT = 8
MAXINT = 0x7FFFFFFF
FIRST_HARD_DISK = 0x80
MAX_PARTITION = 254
MASK = b"********"

_STAGE2_COMMANDS = (
    b"blocklist boot cat chainloader clear cmp color configfile debug default device displayapm "
    b"displaymem embed fallback find fstest geometry halt help hiddenmenu hide impsprobe initrd "
    b"install ioprobe kernel lock makeactive map md5crypt module modulenounzip pager partnew "
    b"parttype password pause print read reboot root rootnoverify savedefault serial setkey setup "
    b"terminal terminfo testload testvbe timeout title unhide uppermem vbeprobe"
)
_NETWORK_COMMANDS = b"bootp dhcp ifconfig rarp tftpserver"
_DISTRIBUTION_COMMANDS = (
    b"background border foreground gfxmenu quiet shade silent splashimage uuid verbose viewport"
)
# GRUB skips the lines of every other command while it loads the menu, wherever they stand.
KNOWN_COMMANDS = frozenset(
    b" ".join((_STAGE2_COMMANDS, _NETWORK_COMMANDS, _DISTRIBUTION_COMMANDS)).split()
)

# A newline after a backslash joins two lines, also in a comment; carriage returns do not count.
_NEWLINE = re.compile(rb"\\\r*\n|\n")
_KEPT_BYTE = re.compile(rb"\\\r*\n|[^\r]")
_JOINT_AT_END = re.compile(rb"\\\r*\n\Z")
_BACKSLASH_AT_END = re.compile(rb"\\\r*\Z")
_NAME_END = re.compile(rb"[ =]+")
_WORD_END = re.compile(rb"[ \r\0]")
_NUMBER = re.compile(rb"0[xX](?P<hex>[0-9a-fA-F]*)|[0-9]+")
# For unfolded lines: what stands before the argument of a `password`, commented out or not.
_PASSWORD = re.compile(rb"(?:|#|#.*?[^a-z])password[ =\r]+(?=[^ \r])", re.DOTALL | re.IGNORECASE)
_DEVICE = re.compile(
    rb"\((?P<hd>hd)?(?P<drive>0[xX][0-9a-fA-F]+|[0-9]+)(?:,(?P<part>0[xX][0-9a-fA-F]+|[0-9]+))?\)"
)


@dataclass(frozen=True, slots=True)
class Command:
    """A logical line with a command that GRUB knows; start and end span it, newline included."""

    name: bytes
    argument: bytes
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A title that GRUB counts, with its body; the span ends with the last line of the body."""

    index: int
    title: bytes
    commands: tuple[Command, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Menu:
    """A menu file as GRUB reads it.

    settings: the known commands before the first title, also those without any effect there.
    first_title: offset of the first title line, counted or not; the size of data without one.
    default: number of the last valid `default` line; None without one, or when it says `saved`.
    timeout: seconds of the last valid `timeout` line; None: GRUB waits for ever.
    hidden: a `hiddenmenu` line is in force.
    fallback: the entries to try when the default fails, as far as they exist.
    has_password: a `password` line before the first title, or in an entry.
    """

    data: bytes
    settings: tuple[Command, ...]
    first_title: int
    entries: tuple[Entry, ...]
    default: int | None
    default_saved: bool
    timeout: int | None
    hidden: bool
    fallback: tuple[int, ...]
    has_password: bool

    def boot_entry(self, saved: int = 0) -> Entry | None:
        """Return the entry that GRUB boots when nobody chooses; saved: what `saved` means."""
        number = saved if self.default_saved else self.default or 0
        if number >= len(self.entries):
            number = self.fallback[0] if self.fallback else 0
        return self.entries[number] if self.entries else None


class Device(NamedTuple):
    """A BIOS hard disk, hd0 being 0, and a partition of it, the first being 0, or the whole."""

    drive: int
    partition: int | None


def parse_menu(data: bytes) -> Menu:
    """Read a menu file; any bytes are one."""
    settings: list[Command] = []
    stanzas: list[list[Command]] = []
    for command in _read_commands(data):
        if command.name == b"title":
            stanzas.append([command])
        else:
            (stanzas[-1] if stanzas else settings).append(command)
    entries = _count_entries(stanzas)
    default = _last_valid(settings, b"default")
    return Menu(
        data=data,
        settings=tuple(settings),
        first_title=stanzas[0][0].start if stanzas else len(data),
        entries=entries,
        default=_number(default),
        default_saved=default is not None and _is_saved(default),
        timeout=_number(_last_valid(settings, b"timeout")),
        hidden=any(command.name == b"hiddenmenu" for command in settings),
        fallback=_read_fallback(settings, len(entries)),
        has_password=any(
            command.name == b"password"
            for command in (*settings, *(line for entry in entries for line in entry.commands))
        ),
    )


def parse_saved_default(data: bytes) -> int:
    """Return the number in the file `default` beside the menu, which `default saved` means."""
    return _parse_number(data[:9]) or 0


def _count_entries(stanzas: Sequence[Sequence[Command]]) -> tuple[Entry, ...]:
    counted = [stanza for stanza in stanzas if len(stanza) > 1]
    return tuple(
        Entry(index, title.argument, tuple(body), title.start, body[-1].end)
        for index, (title, *body) in enumerate(counted)
    )


def _read_commands(data: bytes) -> Iterator[Command]:
    for start, end in _line_spans(data):
        name, argument = _split(_cut(_unfold(data[start:end])))
        if name in KNOWN_COMMANDS:
            yield Command(name, argument, start, end)


def _line_spans(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the spans of the logical lines, newline included; together they cover the data."""
    start = 0
    for newline in _NEWLINE.finditer(data):
        if newline[0] == b"\n":
            yield start, newline.end()
            start = newline.end()
    if start < len(data):
        yield start, len(data)


def _unfold(raw: bytes) -> bytes:
    """Return a logical line without the bytes that GRUB skips, each joint as a carriage return."""
    text = raw.replace(b"\r", b"").replace(b"\t", b" ").replace(b"\\\n", b"\r")
    return text.removesuffix(b"\n").lstrip(b" \r")


def _cut(text: bytes) -> bytes:
    """Return what GRUB keeps of an unfolded line, each joint as a blank.

    A joint beyond the limit still overwrites the last byte: GRUB takes it for the backslash.
    """
    kept, dropped = text[:LINE_LIMIT], text[LINE_LIMIT:]
    if b"\r" in dropped:
        kept = kept[:-1] + b" "
    return kept.replace(b"\r", b" ")


def _split(text: bytes) -> tuple[bytes, bytes]:
    """Split a line into the command's name and its argument."""
    name, *rest = _NAME_END.split(text.partition(b"\0")[0], maxsplit=1)
    return name, b"".join(rest)


def _last_valid(commands: Sequence[Command], name: bytes) -> Command | None:
    """Return the line that decides: the last one with an argument that GRUB accepts."""
    for command in reversed(commands):
        if command.name == name and (_is_saved(command) or _number(command) is not None):
            return command
    return None


def _is_saved(command: Command) -> bool:
    return command.name == b"default" and command.argument == b"saved"


def _number(command: Command | None) -> int | None:
    return None if command is None else _parse_number(command.argument)


def _parse_number(text: bytes) -> int | None:
    """Return the number that text starts with, whatever follows it; None without a valid one."""
    match = _NUMBER.match(text)
    if match is None or match["hex"] == b"":
        return None
    value = int(match[0]) if match["hex"] is None else int(match["hex"], 16)
    return value if value <= MAXINT else None


def _read_fallback(settings: Sequence[Command], entry_count: int) -> tuple[int, ...]:
    """Return the fallback entries that exist, in order, each once.

    A line that GRUB refuses in the middle has already overwritten the numbers before that place.
    """
    slots = [-1, *[0] * (FALLBACK_LIMIT - 1), -1]
    active = False
    for command in settings:
        if command.name == b"fallback":
            numbers, accepted = _parse_fallback(command.argument)
            slots[: len(numbers)] = numbers
            if accepted:
                active = bool(numbers)
                slots[len(numbers) : len(numbers) + 1] = [-1]
    if not active:
        return ()
    end = slots.index(-1)
    return tuple(dict.fromkeys(number for number in slots[:end] if number < entry_count))


def _parse_fallback(argument: bytes) -> tuple[list[int], bool]:
    """Return the numbers of a `fallback` line up to where GRUB stops, and whether it accepts it."""
    numbers: list[int] = []
    while argument and len(numbers) < FALLBACK_LIMIT:
        match = _NUMBER.match(argument)
        number = _parse_number(argument)
        if match is None or number is None:
            return numbers, False
        argument = argument[match.end() :]
        if number not in numbers:  # GRUB does not skip what follows a duplicate
            numbers.append(number)
            argument = argument.partition(b" ")[2].lstrip(b" ")
    return numbers, True


def comment_hidden_menu(data: bytes) -> bytes:
    """Put a # before every `hiddenmenu` line in force."""
    for command in reversed(parse_menu(data).settings):
        if command.name == b"hiddenmenu":
            data = _splice(data, command.start, command.start, b"#")
    return data


def raise_timeout(data: bytes, seconds: int) -> bytes:
    """Make GRUB wait for that many seconds where it waits for fewer, or for ever."""
    menu = parse_menu(data)
    if menu.timeout is not None and menu.timeout >= seconds:
        return data
    return _set_number(menu, b"timeout", seconds)


def set_default(data: bytes, index: int) -> bytes:
    """Make GRUB boot the entry of that number by default."""
    menu = parse_menu(data)
    return data if menu.default == index else _set_number(menu, b"default", index)


def _set_number(menu: Menu, name: bytes, number: int) -> bytes:
    """Change the line that decides, or add one before the first setting."""
    if not 0 <= number <= MAXINT:
        raise ValueError(f"GRUB cannot read {number} as a number")
    digits = b"%d" % number
    command = _last_valid(menu.settings, name)
    if command is not None:
        return _splice(menu.data, *_first_word_span(menu.data, command), digits)
    line = name + b" " + digits + _newline(menu.data)
    if menu.first_title == len(menu.data) and not menu.settings:
        return _terminated(menu.data) + line
    place = menu.settings[0].start if menu.settings else menu.first_title
    return _splice(menu.data, place, place, line)


def _first_word_span(data: bytes, command: Command) -> tuple[int, int]:
    """Return where the first word of a command's argument lies in the data, of whatever length."""
    raw = data[command.start : command.end]
    text, offsets = _unfold(raw), _offsets(raw)
    place = len(_cut(text).partition(b"\0")[0]) - len(command.argument)
    size = len(_WORD_END.split(text[place:], maxsplit=1)[0])
    return command.start + offsets[place], command.start + offsets[place + size - 1] + 1


def _offsets(raw: bytes) -> list[int]:
    """Return where each byte of an unfolded line comes from."""
    offsets = [byte.start() for byte in _KEPT_BYTE.finditer(raw) if byte[0] != b"\n"]
    return offsets[len(offsets) - len(_unfold(raw)) :]


def append_entry(data: bytes, title: bytes, body: Sequence[bytes], marker: bytes) -> bytes:
    """Add an entry at the end, between two comment lines that name the marker.

    The numbers and meanings of the other entries stay. Where the marked entry is there already it
    is replaced. Raises ValueError for lines that GRUB would not take as they stand.
    """
    if find_marked_entry(data, marker) is not None:
        return replace_marked_entry(data, title, body, marker)
    newline = _newline(data)
    begin, end = _marks(marker)
    stanza = _stanza(title, body, newline)
    return _terminated(data) + begin + newline + stanza + end + newline


def find_marked_entry(data: bytes, marker: bytes) -> Entry | None:
    """Return the entry between the marker's comment lines, if GRUB counts it.

    A command that somebody has added after the last comment line belongs to it, too.
    """
    found = _find_marked(data, marker)
    return None if found is None else found[0]


def replace_marked_entry(data: bytes, title: bytes, body: Sequence[bytes], marker: bytes) -> bytes:
    """Replace the marked entry where it stands, so that every number stays.

    Raises ValueError as append_entry does, and where no marked entry is found.
    """
    found = _find_marked(data, marker)
    if found is None:
        raise ValueError(f"the menu has no entry marked {marker!r}")
    entry, region_end = found
    end = min(entry.end, region_end)
    return _splice(data, entry.start, end, _stanza(title, body, _newline(data)))


def _find_marked(data: bytes, marker: bytes) -> tuple[Entry, int] | None:
    """Return the last entry that starts between a pair of marks, and where the second mark is."""
    entries = parse_menu(data).entries
    starts = [entry.start for entry in entries]
    for start, end in reversed(list(_marked_regions(data, marker))):
        number = bisect_left(starts, start)
        if number < len(starts) and starts[number] < end:
            return entries[number], end
    return None


def _marked_regions(data: bytes, marker: bytes) -> Iterator[tuple[int, int]]:
    """Yield the spans between the marker's comment lines."""
    begin, end = _marks(marker)
    start = None
    for line_start, line_end in _line_spans(data):
        text = _unfold(data[line_start:line_end])
        if text == begin:
            start = line_end
        elif text == end and start is not None:
            yield start, line_start
            start = None


def _marks(marker: bytes) -> tuple[bytes, bytes]:
    begin, end = b"# " + marker + b": begin", b"# " + marker + b": end"
    if not _is_plain(begin):
        raise ValueError(f"{marker!r} cannot stand in a comment line")
    return begin, end


def _stanza(title: bytes, body: Sequence[bytes], newline: bytes) -> bytes:
    """Return an entry's lines, the body indented as people do; GRUB reads them as given."""
    for line in body:
        if not _is_plain(line) or _split(line)[0] not in KNOWN_COMMANDS - {b"title"}:
            raise ValueError(f"GRUB does not take {line!r} as a line of an entry")
    first = b"title " + title
    if not body or not _is_plain(first) or _split(first)[1] != title:
        raise ValueError(f"GRUB does not take {title!r} with {len(body)} lines as an entry")
    return newline.join((first, *(b"\t" + line for line in body), b""))


def _is_plain(line: bytes) -> bool:
    """Tell whether GRUB keeps a line as it stands, alone."""
    stays = _cut(_unfold(line)) == line and not line.endswith(b"\\")
    return stays and b"\n" not in line and b"\0" not in line


def mask_passwords(data: bytes) -> bytes:
    """Replace what follows `password` in such lines, commented out or not, by asterisks."""
    masked = []
    for start, end in _line_spans(data):
        raw = data[start:end]
        password = _PASSWORD.match(_unfold(raw))
        if password is not None:
            tail = len(raw) - len(raw.rstrip(b"\r\n"))
            raw = _splice(raw, _offsets(raw)[password.end()], len(raw) - tail, MASK)
        masked.append(raw)
    return b"".join(masked)


def _newline(data: bytes) -> bytes:
    """Return the line ending that most lines of the data have."""
    return b"\r\n" if 2 * data.count(b"\r\n") > data.count(b"\n") else b"\n"


def _terminated(data: bytes) -> bytes:
    """Return the data with its last logical line ended, so that it swallows nothing that follows.

    A blank keeps a last backslash from joining, and a line that ends with a joint ends after it.
    """
    newline = _newline(data)
    if _BACKSLASH_AT_END.search(data):
        return data + b" " + newline
    if data and (not data.endswith(b"\n") or _JOINT_AT_END.search(data)):
        return data + newline
    return data


def _splice(data: bytes, start: int, end: int, new: bytes) -> bytes:
    return data[:start] + new + data[end:]


def parse_device(text: bytes) -> Device | None:
    """Read the name of a hard disk or of a partition on one: (hd0,1), (0x80,1), (hd0).

    None for any other text; floppies, network drives and BSD slices are not named here.
    """
    match = _DEVICE.fullmatch(text)
    if match is None:
        return None
    drive = _parse_number(match["drive"])
    partition = _parse_number(match["part"] or b"0")
    if drive is None or partition is None or partition > MAX_PARTITION:
        return None
    drive -= 0 if match["hd"] else FIRST_HARD_DISK
    if not 0 <= drive < FIRST_HARD_DISK:
        return None
    return Device(drive, None if match["part"] is None else partition)


def split_path(text: bytes) -> tuple[bytes | None, bytes]:
    """Split a path into the device it names, if any, and the rest: (hd0,0) and /vmlinuz."""
    device, parenthesis, path = text.partition(b")")
    if text.startswith(b"(") and parenthesis:
        return device + parenthesis, path
    return None, text
