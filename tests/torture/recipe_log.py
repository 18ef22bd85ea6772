"""Every prefix of the writes of a recipe's run and of its rollback, and random subsets of them.

The recipe has steps of every kind. It is carried out in tree mode by this machine's kernel, on a
root file system with /boot in it, and on one beside a /boot of its own; every write is logged in
order. Each case is the disk as a power cut at some instant leaves it. GRUB's own code, which
replays no journal, must find the old menu or the new one, whole, and whole files that it names.
Mounted, which replays the journal, each path must be as before or as after. Another run must
finish the work, and a rollback bring everything back, owners, modes and times included.
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import bootgraft_agent
from bootgraft_agent import tree
from bootgraft_agent.files import TEMPORARY
from bootgraft_agent.plan import BACKUPS, Options
from bootgraft_agent.tree import Trees
from bootgraft_agent.tree_recipes import choose
from torture.cuts import Cut, Cutter, every_prefix, every_small_subset, random_subsets
from torture.family import Settings, Tally
from torture.judge import cut_out, named_files
from torture.recording import Recording, _logged_file, _problem_of, run_agent
from torture.small_appliance import OFFSETS, SIZE
from vm.commands import run
from vm.grub_files import read_files
from vm.guest_disk import Partition, make_guest_disk
from vm.write_log import Replay, Write, count_entries, read_log

KIND = "ext4"
SUBSETS = 160  # random ones, of all recordings together
STEPS = {
    *("CopyFile", "CreateFile", "WriteFile", "MakeLink", "MakeDirectory", "Move", "Remove"),
    "RemoveDirectory",
}

_MENU = "boot/grub/grub.conf"
_MENU_TEXT = """\
default=0
timeout=5
title Appliance
\troot (hd0,0)
\tkernel {prefix}/vmlinuz ro root=/dev/hda1
\tinitrd {prefix}/initrd.img
"""
_RECIPE = """\
version = 1
name = "everything"
description = "changes of every kind"
[parameters.prefix]
description = "how GRUB names /boot"
default = "PREFIX"

[[action]]
do = "copy"
source = "initrd.new"
path = "/boot/initrd.new"
[[action]]
do = "lines"
path = "/boot/grub/grub.conf"
replace = 'initrd .*$'
with = "initrd {prefix}/initrd.new"
count = 1
[[action]]
do = "grub-arguments"
set = { console = "ttyS0" }
[[action]]
do = "lines"
path = "/etc/hosts"
ensure = "10.0.0.1 new"
[[action]]
do = "copy"
source = "driver"
path = "/lib/driver"
mode = "0751"
owner = 3
replace = true
[[action]]
do = "directory"
path = "/etc/new.d"
mode = "0750"
[[action]]
do = "copy"
path = "/etc/new.d/setting"
content = "a setting\\n"
[[action]]
do = "link"
path = "/etc/alias"
to = "hosts"
[[action]]
do = "link"
path = "/etc/mtab"
to = "../proc/self/mounts"
replace = true
[[action]]
do = "rename"
path = "/etc/old-name"
to = "/etc/new.d/new-name"
[[action]]
do = "remove"
path = "/etc/rules"
[[action]]
do = "remove"
path = "/etc/old.d"
recursive = true
"""

Content = tuple[object, ...]
States = Mapping[str, Content]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where on the disk the guest's file systems are."""

    name: str
    root: int  # offset in bytes
    boot: int | None  # None: /boot is a directory of the root

    @property
    def prefix(self) -> str:
        """Return how GRUB names /boot, in the first partition."""
        return "/boot" if self.boot is None else ""


LAYOUTS = (
    Layout("one file system", OFFSETS[0], None),
    Layout("/boot apart", OFFSETS[1], OFFSETS[0]),
)


class RecipeLog:
    """The family of recipes in tree mode: this machine's kernel writes."""

    name = "recipe_log"

    def run(self, settings: Settings, rng: random.Random, tally: Tally) -> None:
        """Record on each layout, cut, and judge."""
        samples = Samples(subsets=(settings.count or SUBSETS) // (2 * len(LAYOUTS)))
        for layout in LAYOUTS:
            folder = settings.scratch / f"{KIND}-{layout.root}"
            folder.mkdir()
            try_layout(layout, folder, tally, rng, samples)
            shutil.rmtree(folder)


@dataclass(frozen=True, slots=True)
class Samples:
    """How many cuts of a run or a rollback are tried, and how."""

    every_nth: int = 1  # of the prefixes
    subsets: int = 0  # random ones; with any, also all those of few writes
    every_nth_again: int = 8  # of the disks: finished by another run, and taken back


def try_layout(
    layout: Layout, folder: Path, tally: Tally, rng: random.Random, samples: Samples
) -> None:
    """Carry the recipe out, take it back, and cut both."""
    guest = Guest(layout, _write_recipe(folder / "recipe", layout))
    recording = guest.record(_make_disk(layout, folder), folder)
    done = folder / "done.raw"
    shutil.copyfile(recording.disk, done)
    with closing(Replay(done)) as replay:
        replay.write(entry for entry in recording.graft if isinstance(entry, Write))
    sides = guest.read(recording.disk, folder), guest.read(done, folder)
    parts = [("run", recording.disk, recording.graft, 1)]
    if recording.problem is None:
        parts.append(("rollback", done, recording.rollback, 0))
    with tally.case(f"{guest}: the rollback of the recorded run"):
        assert recording.problem is None, recording.problem
    for name, disk, entries, end in parts:
        trial = Trial(guest, sides, folder, tally, samples.every_nth_again)
        image = folder / "cut.raw"
        shutil.copyfile(disk, image)
        with closing(Replay(image)) as replay:
            cutter = Cutter(replay, entries)
            cuts = list(every_prefix(cutter.epochs))[:: samples.every_nth]
            if samples.subsets:
                cuts += every_small_subset(cutter.epochs)
                cuts += random_subsets(cutter.epochs, samples.subsets, rng)
            for cut in sorted(cuts, key=lambda cut: cut.epochs):
                cutter.forward(cut.epochs)
                with replay.tried_out(cut.kept) as changed:
                    trial.judge(name, cut, image, changed.hash())
            cutter.forward(len(cutter.epochs))
            with tally.case(f"{guest}, {name}: what was reported as done is on the disk"):
                assert guest.read(image, folder).menu == sides[end].menu
                assert sides[0].menu != sides[1].menu


@dataclass(frozen=True, slots=True)
class Side:
    """The guest before or after: as GRUB reads it, and as the guest does."""

    menu: bytes | None
    loaded: Mapping[str, bytes | None]  # files that the menu names
    states: States


@dataclass(frozen=True, slots=True)
class Guest:
    """A layout, and the recipe for it."""

    layout: Layout
    recipe: Path

    def __str__(self) -> str:
        return f"{KIND}, {self.layout.name}"

    @contextlib.contextmanager
    def mounted(self, image: Path) -> Iterator[Trees]:
        """Mount a disk's file systems, which replays their journals; needs root."""
        places = [("root", self.layout.root)]
        if self.layout.boot is not None:
            places.append(("boot", self.layout.boot))
        with tempfile.TemporaryDirectory(prefix="bg-mnt-") as folder, contextlib.ExitStack() as up:
            for name, offset in places:
                Path(folder, name).mkdir()
                options = f"loop,offset={offset},sizelimit={SIZE},nosuid,nodev,noexec"
                run(["mount", "-o", options, image, Path(folder, name)])
                up.callback(run, ["umount", Path(folder, name)])
            boot = Path(folder, "boot") if self.layout.boot is not None else None
            folders = choose([str(self.recipe)], [], None).folders
            yield Trees(Path(folder, "root"), boot, None, (), folders)

    def record(self, disk: Path, scratch: Path) -> Recording:
        """Have the command carry the recipe out and take it back; give all writes."""
        log = scratch / "writes.log"
        agent = Path(bootgraft_agent.__file__).parents[1]
        with _logged_file(disk, log, scratch) as file, self.mounted(file) as trees:
            argv: list[str | Path] = [sys.executable, "-m", "bootgraft_agent", "tree"]
            argv += ["--root", trees.root_directory]
            if trees.boot_directory is not None:
                argv += ["--boot", trees.boot_directory]
            recipe: list[str | Path] = ["--recipe", self.recipe]
            _check_kinds(agent, [*argv, *recipe, "--dry-run", "--json"])
            looked = count_entries(log)
            run_agent(agent, [*argv, *recipe])
            done = count_entries(log)
            problem = _problem_of(lambda: run_agent(agent, [*argv, "--rollback"]))
        entries = read_log(log)
        log.unlink()
        mounted = scratch / "mounted.raw"  # as the mounts left it
        shutil.copyfile(disk, mounted)
        with closing(Replay(mounted)) as replay:
            replay.write(entry for entry in entries[:looked] if isinstance(entry, Write))
        return Recording(mounted, (), entries[looked:done], entries[done:], problem)

    def read(self, image: Path, folder: Path) -> Side:
        """Read a disk on which nothing is under way."""
        menu, loaded = self.read_by_grub(image)
        copy = folder / "read.raw"
        shutil.copyfile(image, copy)
        with self.mounted(copy) as trees:
            return Side(menu, loaded, read_states(trees))

    def read_by_grub(self, image: Path) -> tuple[bytes | None, Mapping[str, bytes | None]]:
        """Read the menu and what it names by GRUB's own code, without a replay of the journal."""
        (menu,) = read_files(image, [f"(hd0,0){self.layout.prefix}/grub/grub.conf"])
        paths = named_files(menu or b"")
        found = read_files(image, [f"(hd0,0){path}" for path in paths])
        return menu, dict(zip(paths, found, strict=True))


def read_states(trees: Trees) -> States:
    """Read everything in the guest but what bootgraft keeps; times of all but directories."""
    found: dict[str, Content] = {}
    volumes = [("", trees.root_directory)]
    if trees.boot_directory is not None:
        volumes.append(("boot/", trees.boot_directory))
    for prefix, folder in volumes:
        for path in sorted(folder.rglob("*")):
            name = f"{prefix}{path.relative_to(folder)}"
            if "lost+found" not in name and not name.startswith(f"boot/{BACKUPS}"):
                found[name] = _read_state(path)
    return found


def _read_state(path: Path) -> Content:
    status = path.lstat()
    attributes = status.st_mode, status.st_uid, status.st_gid
    if path.is_symlink():
        return (*attributes, str(path.readlink()), status.st_mtime_ns)
    if path.is_dir():
        return (*attributes, None, 0)
    return (*attributes, hashlib.sha256(path.read_bytes()).hexdigest(), status.st_mtime_ns)


def _without_times(states: States) -> dict[str, Content]:
    return {path: content[:-1] for path, content in states.items()}


class Trial:
    """Judges each disk that a cut leaves once."""

    def __init__(
        self,
        guest: Guest,
        sides: tuple[Side, Side],
        folder: Path,
        tally: Tally,
        every_nth_again: int,
    ) -> None:
        self._guest = guest
        self._old, self._new = sides
        self._copy = folder / "copy.raw"
        self._tally = tally
        self._every_nth_again = every_nth_again
        self._seen: set[str] = set()

    def judge(self, name: str, cut: Cut, image: Path, key: str) -> None:
        """Judge a disk, and of some what another run and a rollback make of it."""
        if key in self._seen:
            return
        self._seen.add(key)
        title = f"{self._guest}, {name}, {cut.name}"
        with self._tally.case(title):
            self._judge_grub(image)
            shutil.copyfile(image, self._copy)
            with self._guest.mounted(self._copy) as trees:
                self._judge_guest(trees)
            self._check_whole()
        if len(self._seen) % self._every_nth_again == 0:
            with self._tally.case(f"{title}, finished and taken back"):
                self._bring_on(image, finish=True)
            with self._tally.case(f"{title}, taken back"):
                self._bring_on(image, finish=False)

    def _judge_grub(self, image: Path) -> None:
        menu, loaded = self._guest.read_by_grub(image)
        side = {each.menu: each for each in (self._old, self._new)}.get(menu)
        assert side is not None, f"GRUB finds neither the old menu nor the new one: {menu!r:.80}"
        assert loaded == side.loaded, f"what the menu names is not whole: {list(loaded)}"

    def _judge_guest(self, trees: Trees) -> None:
        found = _without_times(read_states(trees))
        old, new = _without_times(self._old.states), _without_times(self._new.states)
        torn = [
            path
            for path in old.keys() | new.keys() | found.keys()
            if TEMPORARY not in path and found.get(path) not in (old.get(path), new.get(path))
        ]
        assert not torn, f"neither as before nor as after: {torn}"
        if found[_MENU] == new[_MENU]:
            behind = [path for path in old.keys() | new.keys() if found.get(path) != new.get(path)]
            assert not behind, f"the menu is the new one, and these are not: {behind}"

    def _bring_on(self, image: Path, *, finish: bool) -> None:
        """Finish what was cut off, and take everything back; or only take it back."""
        shutil.copyfile(image, self._copy)
        with self._guest.mounted(self._copy) as trees:
            if finish:
                self._finish(trees)
            tree.undo(trees, None, lambda *_: None)
            found = read_states(trees)
            differs = [
                path
                for path in found.keys() | self._old.states.keys()
                if found.get(path) != self._old.states.get(path)
            ]
            assert not differs, f"not as before: {differs}"
            boot = trees.boot_directory or trees.root_directory / "boot"
            assert not (boot / BACKUPS).exists(), "backups are left"
        self._check_whole()

    def _finish(self, trees: Trees) -> None:
        requests = choose([str(self._guest.recipe)], [], None).requests
        plan = tree.make_plan(trees, None, Options(), requests)
        tree.graft(trees, plan, lambda *_: None)
        assert tree.make_plan(trees, None, Options(), requests).is_done
        found = _without_times(read_states(trees))
        if plan.is_done:  # then it may not even tidy up: no byte changes
            found = {path: state for path, state in found.items() if TEMPORARY not in path}
        new = _without_times(self._new.states)
        differs = [path for path in found.keys() | new.keys() if found.get(path) != new.get(path)]
        assert not differs, f"not as it is to be: {differs}"

    def _check_whole(self) -> None:
        layout = self._guest.layout
        for offset in (layout.root, layout.boot):
            if offset is not None:
                volume = cut_out(self._copy, offset, self._copy.with_name("volume"))
                run(["e2fsck", "-f", "-n", volume])


def _check_kinds(agent: Path, argv: list[str | Path]) -> None:
    """Look at the plan, which must have steps of every kind."""
    environment = {**os.environ, "PYTHONPATH": str(agent)}
    shown = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    kinds = {step["kind"] for step in json.loads(shown.stdout)["steps"]}
    assert kinds == STEPS, f"the plan has steps of these kinds: {kinds}"


# The guest and the recipe


def _make_disk(layout: Layout, folder: Path) -> Path:
    root = folder / "root"
    boot = root / "boot" if layout.boot is None else folder / "boot"
    texts = {
        "etc/fstab": "/dev/hda1 / ext3\n" + ("/dev/hda2 /boot ext3\n" if layout.boot else ""),
        "etc/hosts": "127.0.0.1 localhost\n",
        "etc/rules": "to be removed\n",
        "etc/old-name": "renamed\n",
        "etc/old.d/deep/one": "1\n",
        "etc/old.d/two": "2\n",
    }
    for path, text in texts.items():
        _write(root / path, text.encode())
    _write(root / "lib/driver", _noise("old driver", 20_000))
    (root / "etc/mtab").symlink_to("/proc/mounts")
    (root / "etc/rules").chmod(0o640)
    os.chown(root / "etc/old.d/two", 7, 8)
    (root / "boot").mkdir(exist_ok=True)
    _write(boot / "grub/grub.conf", _MENU_TEXT.format(prefix=layout.prefix).encode())
    (boot / "grub/grub.conf").chmod(0o600)
    (boot / "grub/menu.lst").symlink_to("./grub.conf")
    _write(boot / "vmlinuz", _noise("kernel", 30_000))
    _write(boot / "initrd.img", _noise("initrd", 30_000))
    trees = [root] if layout.boot is None else [boot, root]
    disk = folder / "guest.raw"
    make_guest_disk(disk, *(Partition(SIZE, each, KIND) for each in trees))
    return disk


def _write_recipe(folder: Path, layout: Layout) -> Path:
    _write(folder / "initrd.new", _noise("new initrd", 40_000))
    _write(folder / "driver", _noise("new driver", 40_000))
    path = folder / "everything.toml"
    _write(path, _RECIPE.replace("PREFIX", layout.prefix).encode())
    return path


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _noise(name: str, size: int) -> bytes:
    return random.Random(name).randbytes(size)  # noqa: S311
