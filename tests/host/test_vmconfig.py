"""vm.toml: strict reading, lossless editing, the configuration that attach plans."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootgraft_host.machine import ConfigurationError, MachineError, Media
from bootgraft_host.vmconfig import (
    Com1Config,
    DiskConfig,
    DvdConfig,
    NetworkConfig,
    Slot,
    VmConfig,
    edit_vm_config,
    parse_vm_config,
    plan_attached,
    write_vm_config,
)

FILE = Path("/vms/appliance/vm.toml")
MEDIA = Media(Path("/iso/live.iso"), Path("/iso/payload.iso"))
SOCKET = Path("/run/bootgraft/com1.sock")
TEXT = """\
# The appliance, as it came.
name = "appliance"   # for people
firmware = "bios"
memory_mib = 512
boot_order = [ "disk", "dvd" ]

[[disk]]
path = "appliance.vhd"\t# relative
format = "vpc"
channel = 0
unit = 0

[[dvd]]
channel = 1
unit = 0
iso = ""     # empty

[network]
kind = 'virtio'
mac = "52:54:00:12:34:56"

[com1]
socket = ""
# the end"""


def parse(text: str) -> VmConfig:
    return parse_vm_config(text.encode(), FILE)


def test_every_key_is_read() -> None:
    assert parse(TEXT) == VmConfig(
        name="appliance",
        firmware="bios",
        memory_mib=512,
        boot_order=("disk", "dvd"),
        disks=(DiskConfig(Path("/vms/appliance/appliance.vhd"), "vpc", Slot(0, 0)),),
        dvds=(DvdConfig(Slot(1, 0)),),
        network=NetworkConfig("virtio", "52:54:00:12:34:56"),
        com1=Com1Config(None),
    )


def test_a_machine_may_have_no_devices() -> None:
    config = parse('name = "bare"\nmemory_mib = 64\nboot_order = ["disk"]\n')
    assert (config.disks, config.dvds, config.network, config.com1) == ((), (), None, None)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "appliance"', 'name = ""', "name: expected printable text, found ''"),
        ('name = "appliance"', 'name = "a\\u001b"', "name: expected printable text"),
        ('name = "appliance"', "name = 7", "name: expected a text, found 7"),
        ('name = "appliance"', "", "name: missing; expected a text"),
        ('"bios"', '"uefi"', 'firmware: "uefi" is not supported yet'),
        ('"bios"', '"coreboot"', "firmware: expected one of bios, found 'coreboot'"),
        ("512", "true", "memory_mib: expected a whole number from 16 to 1048576, found True"),
        ("512", "8", "memory_mib: expected a whole number from 16 to 1048576, found 8"),
        ('[ "disk", "dvd" ]', '["disk", "net"]', "boot_order: expected each of disk, dvd"),
        ('[ "disk", "dvd" ]', '["disk", "disk"]', "boot_order: expected each of disk, dvd"),
        ('[ "disk", "dvd" ]', "[]", "boot_order: expected each of disk, dvd"),
        ('"vpc"', '"vdi"', "[[disk]] 1 format: expected one of raw, vpc, vhdx, qcow2"),
        ('path = "appliance.vhd"', "", "[[disk]] 1 path: missing"),
        ("unit = 0\n\n[[dvd]]", "unit = 2\n\n[[dvd]]", "[[disk]] 1 unit: expected a whole number"),
        ("channel = 1", "channel = 0", "2 devices have the same slot, channel 0, unit 0"),
        ('iso = ""', 'isos = ""', "[[dvd]] 1 isos: unknown key; known are channel, iso, unit"),
        ("'virtio'", "'rtl8139'", "[network] kind: expected one of legacy, e1000, virtio, none"),
        ("52:54:00:12:34:56", "52:54", '[network] mac: "52:54" is not a MAC address'),
        ("52:54:00:12:34:56", "53:54:00:12:34:56", "which no adapter may have"),
        ("52:54:00:12:34:56", "", '[network] mac: "" is not a MAC address'),
        ("[com1]", "[com2]", "com2: unknown key; known are boot_order, com1, disk"),
        ('socket = ""', f'socket = "/{"x" * 107}"', "is longer than 107 bytes"),
        ("[network]", "[[network]]", "network: expected a table, [network]"),
        ("[[disk]]", "[disk]", "disk: expected tables, [[disk]]"),
        ("[com1]", "[com1", "not valid TOML"),
    ],
)
def test_each_mistake_is_named_with_its_file_and_key(old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(ConfigurationError) as caught:
        parse(TEXT.replace(old, new, 1))
    assert str(caught.value).startswith(f"{FILE}: ")
    assert message in str(caught.value)


def test_other_encodings_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        parse_vm_config(TEXT.replace("appliance", "Gerät").encode("latin-1"), FILE)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_content_is_parsed_or_refused_in_words(data: bytes) -> None:
    with pytest.raises(ConfigurationError, match=str(FILE)):
        parse_vm_config(data, FILE)


def test_attach_puts_the_live_iso_lowest_and_adds_a_drive_after_it() -> None:
    attached = plan_attached(parse(TEXT), MEDIA, SOCKET)
    assert attached.dvds == (
        DvdConfig(Slot(1, 0), MEDIA.live_iso),
        DvdConfig(Slot(1, 1), MEDIA.payload_iso),
    )
    assert attached.boot_order == ("dvd", "disk")
    assert attached.network == NetworkConfig("legacy", "52:54:00:12:34:56")
    assert attached.com1 == Com1Config(SOCKET)


@pytest.mark.parametrize(
    ("disks", "dvds", "live", "payload"),
    [
        ([Slot(0, 0)], [], Slot(0, 1), Slot(1, 0)),
        ([Slot(0, 0)], [Slot(1, 1)], Slot(0, 1), Slot(1, 1)),
        ([Slot(0, 0), Slot(0, 1)], [Slot(1, 1)], Slot(1, 0), Slot(1, 1)),
        ([Slot(0, 0)], [Slot(0, 1)], Slot(0, 1), Slot(1, 0)),
        ([Slot(0, 0)], [Slot(1, 1), Slot(1, 0)], Slot(1, 0), Slot(1, 1)),
        ([Slot(0, 0)], [Slot(1, 1), Slot(1, 0), Slot(0, 1)], Slot(0, 1), Slot(1, 0)),
    ],
)
def test_attach_finds_slots(disks: list[Slot], dvds: list[Slot], live: Slot, payload: Slot) -> None:
    config = replace(
        parse(TEXT),
        disks=tuple(DiskConfig(Path(f"/{slot}"), "raw", slot) for slot in disks),
        dvds=tuple(DvdConfig(slot, Path("/old.iso")) for slot in dvds),
    )
    attached = plan_attached(config, MEDIA, SOCKET)
    isos = {dvd.slot: dvd.iso for dvd in attached.dvds}
    assert (isos[live], isos[payload]) == (MEDIA.live_iso, MEDIA.payload_iso)
    assert set(isos.values()) <= {MEDIA.live_iso, MEDIA.payload_iso, Path("/old.iso")}
    assert len(isos) == max(2, len(dvds))
    assert plan_attached(attached, MEDIA, SOCKET) == attached


def test_attach_without_a_free_slot_says_how_many_are_missing() -> None:
    full = tuple(DiskConfig(Path(f"/{n}"), "raw", Slot(n // 2, n % 2)) for n in range(3))
    config = replace(parse(TEXT), disks=full, dvds=(DvdConfig(Slot(1, 1)),))
    with pytest.raises(MachineError, match=r"1 more must be added .* 0 of the four IDE slots"):
        plan_attached(config, MEDIA, SOCKET)


def test_a_machine_without_adapter_gets_none() -> None:
    for network in (None, NetworkConfig("none", None)):
        config = replace(parse(TEXT), network=network)
        assert plan_attached(config, MEDIA, SOCKET).network == network


def edit(text: str, wanted: VmConfig) -> str:
    return edit_vm_config(text.encode(), FILE, wanted).decode()


def test_an_edit_that_changes_nothing_changes_no_byte() -> None:
    assert edit(TEXT, parse(TEXT)) == TEXT


def test_edits_leave_comments_and_white_space() -> None:
    edited = edit(TEXT, plan_attached(parse(TEXT), MEDIA, SOCKET))
    assert edited == (
        TEXT.replace('[ "disk", "dvd" ]', '["dvd", "disk"]')
        .replace('iso = ""', 'iso = "/iso/live.iso"')
        .replace(
            "\n[network]", '\n[[dvd]]\nchannel = 1\nunit = 1\niso = "/iso/payload.iso"\n[network]'
        )
        .replace("'virtio'", '"legacy"')
        .replace('socket = ""', f'socket = "{SOCKET}"')
    )


def test_the_adapter_alone_can_be_edited() -> None:
    config = parse(TEXT)
    wanted = replace(config, network=NetworkConfig("legacy", "52:54:00:12:34:56"))
    assert edit(TEXT, wanted) == TEXT.replace("'virtio'", '"legacy"')


HEAD = 'name = "a"\nmemory_mib = 64\nboot_order = ["disk", "dvd"]'


@pytest.mark.parametrize(
    "text",
    [
        HEAD,
        HEAD + "\n[[dvd]]\nchannel = 1\nunit = 1",
        HEAD.replace("\n", "\r\n") + "\r\n[[dvd]]\r\nchannel = 1\r\nunit = 0\r\n[com1]\r\n",
        HEAD + "\ndvd = []\n",
        HEAD + "\ndvd = [{channel = 1, unit = 0}]\ncom1.socket = 'mine'\n",
        HEAD + "\nnetwork = {kind = 'e1000', mac = '52:54:00:00:00:01'}\n",
        HEAD + "\n[network]\nkind = 'none'\n\n\n# end\n",
        TEXT.replace("\n", "\r\n"),
    ],
)
def test_files_of_all_styles_can_be_edited(text: str) -> None:
    wanted = plan_attached(parse(text), MEDIA, SOCKET)
    edited = edit(text, wanted)
    assert parse(edited) == wanted
    assert edit(edited, wanted) == edited


def test_a_file_that_would_be_reordered_is_refused() -> None:
    text = f"{HEAD}\n[[dvd]]\nchannel=0\nunit=0\n[com1]\n[[dvd]]\nchannel=0\nunit=1\n"
    with pytest.raises(ConfigurationError, match=r"keep each table, and all \[\[dvd\]\] tables"):
        edit(text, plan_attached(parse(text), MEDIA, SOCKET))


def test_a_path_that_toml_cannot_hold_is_refused() -> None:
    media = Media(Path("/iso/live\udcff.iso"), MEDIA.payload_iso)
    with pytest.raises(ConfigurationError, match="cannot be written in a TOML file"):
        edit(TEXT, plan_attached(parse(TEXT), media, SOCKET))


def test_writing_keeps_mode_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "vm.toml"
    path.write_text("old")
    path.chmod(0o640)
    write_vm_config(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o7777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_writing_that_fails_says_so_and_leaves_the_old(tmp_path: Path) -> None:
    path = tmp_path / "vm.toml"
    path.write_text("old")
    (tmp_path / ".vm.toml.new").mkdir()
    with pytest.raises(MachineError, match=r"cannot write .*vm\.toml"):
        write_vm_config(path, b"new")
    assert path.read_text() == "old"
