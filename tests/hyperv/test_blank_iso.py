"""The disc that nothing boots from."""

import shutil
import subprocess
from pathlib import Path

import pytest

from bootgraft_host.hyperv.blank_iso import LABEL, SECTOR_SIZE, make_blank_iso


def test_it_is_an_iso_9660_volume_without_a_boot_record() -> None:
    disc = make_blank_iso()
    descriptors = [disc[sector * SECTOR_SIZE :][:7] for sector in (16, 17)]
    assert descriptors == [b"\1CD001\1", b"\xffCD001\1"]
    assert len(disc) % SECTOR_SIZE == 0


@pytest.mark.skipif(shutil.which("blkid") is None, reason="blkid is not installed")
def test_linux_recognises_it(tmp_path: Path) -> None:
    path = tmp_path / "blank.iso"
    path.write_bytes(make_blank_iso())
    found = subprocess.run(["blkid", "-p", path], capture_output=True, text=True, check=True).stdout
    assert 'TYPE="iso9660"' in found
    assert f'LABEL="{LABEL}"' in found
