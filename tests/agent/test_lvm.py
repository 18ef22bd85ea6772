"""What LVM's reports say of the guest's volumes."""

from pathlib import Path

import pytest

from bootgraft_agent import lvm
from bootgraft_agent.errors import RefusedError
from bootgraft_agent.lvm import LogicalVolume, parse_reports

Row = dict[str, str]


def member(name: str, pv_uuid: str, group: str = "vg0", vg_uuid: str = "G-1") -> Row:
    return {
        "pv_name": f"/dev/{name}",
        "pv_uuid": pv_uuid,
        "vg_name": group,
        "vg_uuid": vg_uuid,
    }


def volume(name: str, group: str = "vg0", vg_uuid: str = "G-1", role: str = "public") -> Row:
    return {
        "vg_name": group,
        "vg_uuid": vg_uuid,
        "lv_name": name,
        "lv_uuid": f"L-{name}",
        "lv_role": role,
    }


def test_a_volume_is_known_by_its_names_and_by_what_holds_it() -> None:
    found = parse_reports(
        [member("sda2", "P1"), member("sdb1", "P2")],
        [volume("root"), volume("pool_tmeta", role="private,thin,pool,metadata")],
    )
    assert found.problems == ()
    assert found.volumes == (LogicalVolume("vg0", "root", "LVM-G1Lroot", ("sda2", "sdb1")),)


def test_a_guest_names_a_volume_in_two_ways() -> None:
    each = LogicalVolume("debian-vg", "swap_1", "LVM-x", ())
    assert each.node_names == ("/dev/debian-vg/swap_1", "/dev/mapper/debian--vg-swap_1")


def test_two_groups_of_one_name_are_refused_with_their_places() -> None:
    found = parse_reports(
        [member("sda2", "P1"), member("sdb2", "P2", vg_uuid="G-2")],
        [volume("root"), volume("root", vg_uuid="G-2")],
    )
    assert found.volumes == ()
    (problem,) = found.problems
    assert "two volume groups are called vg0, on sda2 and sdb2" in problem
    assert "vgrename" in problem


def test_a_disk_and_its_copy_are_refused() -> None:
    found = parse_reports([member("sda2", "P1"), member("sdb2", "P1")], [volume("root")])
    assert found.volumes == ()
    assert "sda2 and sdb2 are one and the same physical volume" in found.problems[0]


@pytest.mark.parametrize("name", ["-ay", "a b", "../x", "", "ü"])
def test_a_name_that_lvm_does_not_make_never_gets_to_its_command_line(name: str) -> None:
    found = parse_reports([member("sda2", "P1")], [volume(name)])
    assert found.volumes == ()
    assert len(found.problems) == 1


def test_without_a_physical_volume_lvm_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert lvm.read_logical_volumes([]) == lvm.Found((), ())
    with lvm.started([]) as nodes:
        assert nodes == {}


def test_a_volume_that_somebody_has_started_is_left_to_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "dm-0/dm").mkdir(parents=True)
    (tmp_path / "dm-0/dm/uuid").write_text("LVM-x\n")
    monkeypatch.setattr(lvm, "_SYS_BLOCK", tmp_path)
    monkeypatch.setattr(lvm, "_OURS", tmp_path / "ours")
    with (
        pytest.raises(RefusedError, match="vg0/root are started already, by hand"),
        lvm.started([LogicalVolume("vg0", "root", "LVM-x", ("sda2",))]),
    ):
        pass
