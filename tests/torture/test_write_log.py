"""A small share of `make torture`: the writes of tree mode on ext3, cut behind each one."""

import os
import random
from pathlib import Path

import pytest

import bootgraft_agent
from torture.again import write_payload
from torture.family import Settings, Tally
from torture.recording import record_tree_mode
from torture.small_appliance import build_small_appliance
from torture.write_log import SMALL, Trial, split

SEED = 20260101


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems")
def test_behind_every_write_grub_finds_old_or_new_and_the_guest_too(tmp_path: Path) -> None:
    disk = build_small_appliance(tmp_path, "ext3")
    payload = write_payload(tmp_path / "payload")
    agent = Path(bootgraft_agent.__file__).parents[1]
    recording = record_tree_mode(agent, payload, disk.path, tmp_path)
    rng, tally = random.Random(SEED), Tally()  # noqa: S311
    settings = Settings(SEED, None, tmp_path / "no.iso", tmp_path)
    for part in split(recording, "ext3", tmp_path):
        Trial(part, settings, SMALL, tally, rng).run()
    assert recording.problem is None
    assert tally.lost == []
    assert tally.tried > 100
