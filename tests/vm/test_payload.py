"""The payload ISOs show what their names claim, to a reader that is not the agent's."""

import re
from pathlib import Path

import pytest

from vm import debian_guest
from vm.commands import run
from vm.payload import BadPayload, build_bad_payload, build_payload

# Without Rock Ridge xorriso shows the names of ISO 9660 in upper case, but for the ";1".
SHIM_ON_ISO = "/SHIM/XEN_64.GZ"


def read_iso(iso: Path, path: str, copy: Path) -> bytes:
    run(["xorriso", "-osirrox", "on", "-indev", iso, "-extract", path, copy])
    return copy.read_bytes()


def list_iso(iso: Path) -> set[str]:
    listing = run(["xorriso", "-indev", iso, "-find", "/", "-exec", "echo"]).stdout
    return set(re.findall(r"^'(.*)'$", listing, re.MULTILINE))


def test_the_payload_shows_upper_case_names_without_rock_ridge(tmp_path: Path) -> None:
    iso = build_payload(tmp_path)
    assert list_iso(iso) == {"/", "/SHIM", SHIM_ON_ISO, "/SHIM/README.TXT"}
    assert b"XEN_64.GZ;1" in iso.read_bytes()
    assert read_iso(iso, SHIM_ON_ISO, tmp_path / "shim") == debian_guest.read_hypervisor()


def test_the_payload_shows_real_names_with_rock_ridge(tmp_path: Path) -> None:
    iso = build_payload(tmp_path, rock_ridge=True)
    assert list_iso(iso) == {"/", "/shim", "/shim/xen-64.gz", "/shim/readme.txt"}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (BadPayload.NO_SHIM_FOLDER, {"/README.TXT"}),
        (BadPayload.EMPTY_SHIM_FOLDER, {"/README.TXT", "/SHIM"}),
        (BadPayload.EMPTY_SHIM, {"/SHIM", SHIM_ON_ISO}),
        (BadPayload.TRUNCATED_SHIM, {"/SHIM", SHIM_ON_ISO}),
        (BadPayload.TWO_SHIMS, {"/SHIM", "/SHIM/FIRST.GZ", "/SHIM/SECOND.GZ"}),
        (BadPayload.OTHER_BITNESS, {"/SHIM", "/SHIM/XEN_32.GZ"}),
        (
            BadPayload.REPLACES_KERNEL,
            {"/shim", "/shim/xen-64.gz", "/shim/vmlinuz-2.6.18-standin.el5xen"},
        ),
    ],
)
def test_a_bad_payload_holds_what_its_kind_says(
    kind: BadPayload, names: set[str], tmp_path: Path
) -> None:
    assert list_iso(build_bad_payload(tmp_path, kind)) == {"/", *names}
