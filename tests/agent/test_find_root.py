"""Which partition a kernel's root= means in the live system."""

import pytest

from bootgraft_agent.disks import Disk, Partition
from bootgraft_agent.machine import Machine, Place
from bootgraft_agent.root_partition import NoRoot, find_root

PARTITION = Partition(
    name="hda2",
    kernel_name="sda2",
    number=2,
    offset=1 << 20,
    size=1 << 20,
    active=False,
    kind="0x83",
    fs_type="ext3",
    label="the root/1",
    uuid="6e1c-44",
)
DISK = Disk(
    name="hda",
    kernel_name="sda",
    bus="ata",
    channel=0,
    unit=0,
    size=8 << 20,
    sector_size=512,
    model=None,
    table="msdos",
    partitions=(PARTITION,),
    problem=None,
)
MACHINE = Machine((DISK,), ())


@pytest.mark.parametrize(
    "argument",
    [
        b"root=/dev/xvda2",
        b"root=/dev/hda2",
        b"root=UUID=6e1c-44",
        b"root=/dev/disk/by-uuid/6e1c-44",
        rb"root=/dev/disk/by-label/the\x20root\x2f1",
    ],
)
def test_the_partition_is_found(argument: bytes) -> None:
    assert find_root(MACHINE, b"ro " + argument) == Place(DISK, PARTITION)


@pytest.mark.parametrize(
    "argument",
    [b"root=/dev/disk/by-uuid/other", b"root=/dev/disk/by-path/x", b"root=LABEL=", b"ro"],
)
def test_what_fits_no_partition_is_said(argument: bytes) -> None:
    assert isinstance(find_root(MACHINE, argument), NoRoot)
