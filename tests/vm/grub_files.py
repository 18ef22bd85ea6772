"""Files as GRUB legacy's own code reads them from a disk's image: the journal is not replayed."""

import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import grub_legacy

TIMEOUT = 20.0  # seconds; on a torn directory GRUB reads for ever
_DUMP = re.compile(rb"grub> dump \(hd0,\d+\)\S* (\d+)\n(.*?)(?=grub> )", re.DOTALL)
_NOT_FOUND = b"Error 15: File not found"


class GrubError(Exception):
    """GRUB could not read what it was to read; the message has its words."""


def read_files(image: Path, paths: Sequence[str]) -> list[bytes | None]:
    """Read files by GRUB's names for them ("(hd0,0)/grub/menu.lst"); None where there is none.

    GRUB unpacks what is gzipped. Raises GrubError for any other answer than the file or "File not
    found".
    """
    with tempfile.TemporaryDirectory(prefix="bg-grub-") as scratch:
        commands = [f"device (hd0) {image}"]
        commands += [f"dump {path} {number}" for number, path in enumerate(paths)]
        result = subprocess.run(
            [grub_legacy.shell_path(), "--batch", "--no-floppy", "--device-map=/dev/null"],
            cwd=scratch,
            input="\n".join([*commands, "quit"]).encode() + b"\n",
            capture_output=True,
            timeout=TIMEOUT,
            check=False,
        )
        answers = dict(_DUMP.findall(result.stdout))
        found: list[bytes | None] = []
        for number, path in enumerate(paths):
            answer = answers.get(b"%d" % number)
            copy = Path(scratch, str(number))
            if answer is not None and _NOT_FOUND in answer:
                found.append(None)
            elif answer is None or answer.strip() or not copy.exists():
                said = (answer or result.stdout[-300:] + result.stderr[-300:]).strip()
                raise GrubError(f"GRUB cannot read {path}: {said!r}")
            else:
                found.append(copy.read_bytes())
    return found
