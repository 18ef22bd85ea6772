r"""The modelled host's files: Windows paths over a real folder, and who may read what.

C:\ISOs\live.iso lies at FOLDER/C/ISOs/live.iso; names are found in any case. Permissions are kept
beside, as SDDL text; what has none of its own has those that its folder hands down.
"""

import re
import uuid
from pathlib import Path

SYSTEM_TEMP = "C:\\Windows\\Temp"
USER_TEMP = "C:\\Users\\Administrator\\AppData\\Local\\Temp"
PROGRAM_DATA = "C:\\ProgramData"

PRIMARY_GROUP = "S-1-5-21-1004336348-1177238915-682003330-513"
_DEFAULT_SDDL = (
    f"O:BAG:{PRIMARY_GROUP}D:AI(A;OICIID;FA;;;SY)(A;OICIID;FA;;;BA)(A;OICIID;0x1200a9;;;BU)"
)
# Everybody may make files and folders there, as on every Windows.
_PROGRAM_DATA_SDDL = (
    "O:SYG:SYD:PAI(A;OICIIO;GA;;;CO)(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;0x1200a9;;;BU)"
    "(A;CI;DCLCRPCR;;;BU)"
)
_ACE = re.compile(r"\((?P<kind>[^;)]*);(?P<flags>[^;]*);(?P<rights>[^;]*);;;(?P<sid>[^)]+)\)")
_SDDL = re.compile(
    r"(?:O:(?P<owner>[^:()]+?))?(?:G:(?P<group>[^:()]+?))?D:(?P<dacl>[A-Z]*(?:\(.*\))*)"
)
_WELL_KNOWN = {
    "S-1-5-32-544": "BA",
    "S-1-5-18": "SY",
    "S-1-5-32-545": "BU",
    "S-1-5-11": "AU",
    "S-1-1-0": "WD",
}
# The groups whose member a machine's own account is.
_MACHINE_GROUPS = {"WD", "AU", "BU", "S-1-5-83-0"}
_READING_RIGHTS = re.compile(r"FA|FR|GA|GR|FRFX|GRGX", re.IGNORECASE)
_FILE_READ_DATA = 1
_ILLEGAL = re.compile(r'[<>"|?*\x00-\x1f]')


class WindowsPathError(ValueError):
    """A text that is no absolute path on one of the host's drives."""


class Files:
    """The drives of the host."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sddl: dict[Path, str] = {}
        self.available_bytes = 100 << 30  # on each drive
        for path in (SYSTEM_TEMP, USER_TEMP, PROGRAM_DATA):
            self.locate(path).mkdir(parents=True, exist_ok=True)
        self.secure(PROGRAM_DATA, _PROGRAM_DATA_SDDL)

    def locate(self, path: str) -> Path:
        """The real file of a path, whether it exists or not; names that exist in any case.

        Raises WindowsPathError.
        """
        found = self._folder
        for number, part in enumerate(_split(path)):
            found = (found / part.upper()) if number == 0 else _find_in(found, part)
        return found

    def find(self, path: str) -> Path | None:
        """The real file or folder of a path; None where there is none."""
        try:
            found = self.locate(path)
        except WindowsPathError:
            return None
        return found if found.exists() else None

    def find_file(self, path: str) -> Path | None:
        """The real file of a path; None where there is none, or a folder."""
        found = self.find(path)
        return found if found is not None and found.is_file() else None

    def name(self, real: Path) -> str:
        """The Windows path of a real file."""
        drive, *rest = real.relative_to(self._folder).parts
        return "\\".join((f"{drive}:", *rest)) if rest else f"{drive}:\\"

    def put(self, path: str, content: bytes = b"") -> str:
        """Have a file, with the folders that it needs; gives the path."""
        found = self.locate(path)
        found.parent.mkdir(parents=True, exist_ok=True)
        found.write_bytes(content)
        return path

    # Permissions.

    def secure(self, path: str, sddl: str) -> None:
        """Give a file or folder an owner and permissions of its own, as SDDL text."""
        check_sddl(sddl)
        self._sddl[self.locate(path)] = sddl

    def sddl(self, path: str) -> str:
        """Owner, group and permissions, written as Windows writes them."""
        own = self._sddl.get(self.locate(path))
        return _DEFAULT_SDDL if own is None else _canonical(own)

    def forget(self, real: Path) -> None:
        """A file that is gone has no permissions."""
        self._sddl.pop(real, None)

    def move(self, old: Path, new: Path) -> None:
        """A file that is moved keeps its own permissions."""
        own = self._sddl.pop(old, None)
        if own is not None:
            self._sddl[new] = own

    def may_read(self, path: str, vm_id: uuid.UUID) -> bool:
        """Whether a virtual machine's account may read a file."""
        accounts = {machine_sid(vm_id), *_MACHINE_GROUPS}
        entries = [each for each in self._entries(self.locate(path)) if each[2] in accounts]
        allowed = any(kind == "A" and _may_read(rights) for kind, rights, _ in entries)
        return allowed and not any(kind == "D" and _may_read(rights) for kind, rights, _ in entries)

    def _entries(self, real: Path) -> list[tuple[str, str, str]]:
        """(kind, rights, account) of the permissions that hold for a file."""
        if real in self._sddl:
            return [(kind, rights, sid) for kind, _, rights, sid in _parse(self._sddl[real])]
        for folder in real.parents:
            if folder in self._sddl:
                entries = _parse(self._sddl[folder])
                return [
                    (kind, rights, sid) for kind, flags, rights, sid in entries if "OI" in flags
                ]
        return [(kind, rights, sid) for kind, _, rights, sid in _parse(_DEFAULT_SDDL)]


def machine_sid(vm_id: uuid.UUID) -> str:
    """The account of a virtual machine: S-1-5-83-1 and its Id as four numbers, little-endian."""
    numbers = (int.from_bytes(vm_id.bytes_le[at : at + 4], "little") for at in range(0, 16, 4))
    return "-".join(("S-1-5-83-1", *map(str, numbers)))


def _split(path: str) -> list[str]:
    drive, colon, rest = path.replace("/", "\\").partition(":")
    if not colon or len(drive) != 1 or not drive.isalpha() or not rest.startswith("\\"):
        raise WindowsPathError(f"{path} is not an absolute path on a drive of this host")
    if _ILLEGAL.search(rest) or ":" in rest:
        raise WindowsPathError("Illegal characters in path.")
    parts: list[str] = []
    for part in rest.split("\\"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return [drive, *parts]


def _find_in(folder: Path, name: str) -> Path:
    exact = folder / name
    if exact.exists() or not folder.is_dir():
        return exact
    for each in folder.iterdir():
        if each.name.lower() == name.lower():
            return each
    return exact


def check_sddl(sddl: str) -> None:
    """Refuse what is no security descriptor (ValueError)."""
    if _SDDL.fullmatch(sddl) is None:
        raise ValueError(f"The SDDL form of a security descriptor object is invalid: {sddl}")


def _parse(sddl: str) -> list[tuple[str, str, str, str]]:
    found = _ACE.findall(sddl)
    return [(kind, flags, rights, _WELL_KNOWN.get(sid, sid)) for kind, flags, rights, sid in found]


def _canonical(sddl: str) -> str:
    """As Get-Acl gives it: accounts that have an abbreviation by it, the flag AI set."""
    match = _SDDL.fullmatch(sddl)
    assert match is not None
    owner, group = match["owner"] or "BA", match["group"] or PRIMARY_GROUP
    flags = "PAI" if match["dacl"].partition("(")[0].startswith("P") else "AI"
    entries = "".join(
        f"({kind};{ace_flags};{rights};;;{sid})" for kind, ace_flags, rights, sid in _parse(sddl)
    )
    return f"O:{_WELL_KNOWN.get(owner, owner)}G:{_WELL_KNOWN.get(group, group)}D:{flags}{entries}"


def _may_read(rights: str) -> bool:
    if rights.lower().startswith("0x"):
        return bool(int(rights, 16) & _FILE_READ_DATA)
    return _READING_RIGHTS.search(rights) is not None
