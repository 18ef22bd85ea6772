"""What is read of a guest's fstab."""

import pytest

from bootgraft_agent.fstab import Entry, parse_fstab, place_of

FSTAB = rb"""# a comment
UUID=6e1c-44 / ext4 errors=remount-ro 0 1
/dev/sda5	none	swap	sw
LABEL=my\040data /srv/my\040data xfs noauto,x-systemd.automount 0 0
/srv/data /home none bind 0 0
/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0
one-word
"""


def test_the_lines_are_read_with_their_escapes() -> None:
    assert parse_fstab(FSTAB) == (
        Entry("UUID=6e1c-44", "/", "ext4", ("errors=remount-ro",)),
        Entry("/dev/sda5", "none", "swap", ("sw",)),
        Entry("LABEL=my data", "/srv/my data", "xfs", ("noauto", "x-systemd.automount")),
        Entry("/srv/data", "/home", "none", ("bind",)),
        Entry("/dev/sr0", "/media/cdrom0", "udf,iso9660", ("user", "noauto")),
    )


def test_what_is_swap_bound_or_not_mounted_by_itself_is_known() -> None:
    root, swap, data, home, dvd = parse_fstab(FSTAB)
    assert [each.is_swap for each in (root, swap)] == [False, True]
    assert [each.is_bind for each in (root, home)] == [False, True]
    assert [each.is_left_out for each in (root, data, dvd)] == [False, False, True]


def test_of_an_option_the_last_value_counts() -> None:
    (entry,) = parse_fstab(b"/dev/sda1 / btrfs subvol=@a,ro,subvol=@b 0 0\r\n")
    assert entry.option("subvol") == "@b"
    assert entry.option("subvolid") is None


@pytest.mark.parametrize(
    ("mount_point", "place"),
    [("/", ""), ("//usr//local/", "usr/local"), ("none", None), ("/srv/../etc", None)],
)
def test_a_mount_point_is_a_plain_path_or_none(mount_point: str, place: str | None) -> None:
    assert place_of(mount_point) == place


def test_a_fstab_without_end_is_cut() -> None:
    assert len(parse_fstab(b"/dev/sda1 /a ext4\n" * 5000)) == 1000
