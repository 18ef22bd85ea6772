"""`bootgraft-agent tree` with recipes: ready ones, files, a payload's; with and without GRUB."""

import contextlib
import hashlib
import io
import json
import os
import subprocess
from pathlib import Path

import pytest

from agent.recipe_guests import make_root, write
from agent.test_tree_mode import (
    assert_refused,
    make_payload,
    snapshot,
    tree_arguments,
)
from bootgraft_agent.cli import main
from vm.payload import good_files
from vm.trees import SampleTree, build_tree

Result = subprocess.CompletedProcess[str]

GREETING = """\
version = 1
name = "greeting"
description = "a greeting, and a program that gives it"
[parameters.place]
description = "where the guest is now"
default = "here"
[[action]]
do = "copy"
path = "/etc/motd"
content = "in {place} now\\n"
replace = true
[[action]]
do = "copy"
source = "files/greet"
path = "/usr/bin/greet"
mode = "0755"
"""
FORGET = """\
version = 1
name = "forget"
description = "what was cached is forgotten"
[parameters.place]
description = "where the guest is now"
[[action]]
do = "remove"
path = "/var/cache/old"
[[action]]
do = "directory"
path = "/var/cache/new"
"""
LIST = """\
version = 1
[[recipe]]
name = "drop-persistent-net"
[[recipe]]
file = "own/greeting.toml"
[recipe.set]
place = "Bern"
"""
HASH = "$6$salt$0123456789abcdef"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A guest of today, without GRUB legacy; /boot is a directory."""
    root = make_root("debian12", tmp_path)
    write(root, "usr/bin/env", "")
    write(root, "var/cache/old", "old\n")
    return root


@pytest.fixture
def greeting(tmp_path: Path) -> Path:
    """A recipe file with what it copies beside it."""
    return write_greeting(tmp_path / "own")


def write_greeting(folder: Path) -> Path:
    write(folder, "files/greet", "#!/bin/sh\n")
    write(folder, "greeting.toml", GREETING)
    return folder / "greeting.toml"


def run_agent(*arguments: str | Path) -> Result:
    """Run the command in this process: most of a process's time goes to its start."""
    argv = [str(each) for each in arguments]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(argv)
        except SystemExit as error:  # of argparse
            status = int(str(error))
    return Result(argv, status, out.getvalue(), err.getvalue())


def run(root: Path, *options: str | Path) -> Result:
    return run_agent("tree", "--root", root, *options)


def run_tree(tree: SampleTree, payload: Path | None, *options: str | Path) -> Result:
    return run_agent(*tree_arguments(tree, payload), *options)


def done(root: Path, *options: str | Path) -> str:
    result = run(root, *options)
    assert result.returncode == 0, result.stderr
    return result.stdout


def contents(*folders: Path) -> dict[str, tuple[object, ...]]:
    """Everything that a rollback brings back."""
    found: dict[str, tuple[object, ...]] = {}
    for path in (path for folder in folders for path in folder.rglob("*")):
        status = path.lstat()
        attributes = status.st_mode, status.st_uid, status.st_gid
        if path.is_file() and not path.is_symlink():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path)] = (*attributes, status.st_mtime_ns, digest)
        else:
            found[str(path)] = attributes
    return found


def test_a_recipe_is_shown_done_once_and_taken_back_on_a_guest_without_grub_legacy(
    root: Path, greeting: Path
) -> None:
    before, untouched = contents(root), snapshot(root)
    options: list[str | Path] = [
        "--recipe",
        "serial-console",
        "--recipe",
        greeting,
        "--set",
        "place=Bern",
    ]
    shown = done(root, *options, "--dry-run")
    assert f"copy recipes/02-greeting/files/greet of the payload to {root}:/usr/bin/greet" in shown
    assert "+in Bern now" in shown
    assert snapshot(root) == untouched
    assert f"changed {root}:/usr/bin/greet" in done(root, *options)
    assert (root / "etc/motd").read_text() == "in Bern now\n"
    assert (root / "usr/bin/greet").read_text() == "#!/bin/sh\n"
    assert (root / "usr/bin/greet").stat().st_mode & 0o777 == 0o755
    assert "console=ttyS0" in (root / "etc/default/grub").read_text()
    finished = snapshot(root)
    assert "nothing is to be done" in done(root, *options)
    assert snapshot(root) == finished
    assert f"restored {root}:/usr/bin/greet" in done(root, "--rollback")
    assert contents(root) == before


@pytest.mark.parametrize("time", [-(10**18), 9 * 10**18])
def test_a_file_of_1938_or_2255_does_not_stop_the_next_run_and_comes_back(
    time: int, root: Path, greeting: Path
) -> None:
    write(root, "etc/motd", "old\n")
    os.utime(root / "etc/motd", ns=(time, time))
    before = contents(root)
    done(root, "--recipe", greeting)
    assert "nothing is to be done" in done(root, "--recipe", greeting)
    done(root, "--rollback")
    assert contents(root) == before


def test_a_file_renamed_over_another_keeps_its_own_owner_and_mode(
    root: Path, tmp_path: Path
) -> None:
    for name, mode in (("new", 0o600), ("old", 0o644)):
        write(root, f"srv/{name}", "the same\n")
        (root / f"srv/{name}").chmod(mode)
    before = contents(root)
    recipe = tmp_path / "over.toml"
    recipe.write_text(
        'version = 1\nname = "over"\ndescription = "one file takes the place of another"\n'
        '[[action]]\ndo = "rename"\npath = "/srv/new"\nto = "/srv/old"\nreplace = true\n'
    )
    done(root, "--recipe", recipe)
    assert not (root / "srv/new").exists()
    assert (root / "srv/old").stat().st_mode & 0o7777 == 0o600
    assert "nothing is to be done" in done(root, "--recipe", recipe)
    done(root, "--rollback")
    assert contents(root) == before


def test_json_is_one_document(root: Path, greeting: Path) -> None:
    def document(*options: str | Path) -> dict[str, object]:
        found: dict[str, object] = json.loads(done(root, *options, "--json"))
        return found

    plan = document("--recipe", greeting, "--dry-run")
    assert str(plan["recipe"]).startswith("greeting:")
    assert plan["already_grafted"] is False
    applied = document("--recipe", greeting)
    assert applied["plan_sha256"] == plan["plan_sha256"]
    assert applied["changed"] is True
    assert document("--recipe", greeting)["changed"] is False
    assert document("--rollback")["run_id"] == applied["run_id"]


def test_the_shim_and_recipe_files_are_one_plan_with_files_from_two_places(
    tmp_path: Path, greeting: Path
) -> None:
    tree = build_tree("rhel5", tmp_path / "guest")
    (tree.root / "usr/bin").mkdir(parents=True)
    folders = [each for each in (tree.root, tree.boot) if each is not None]
    payload = make_payload(tmp_path / "payload", good_files())
    before = contents(*folders)
    recipes: list[str | Path] = [
        "--recipe",
        greeting,
        "--recipe",
        "hyperv-shim",
        "--recipe",
        "serial-console",
    ]
    result = run_tree(tree, payload, *recipes, "--json")
    assert result.returncode == 0, result.stderr
    names = [word.partition(":")[0] for word in json.loads(result.stdout)["recipe"].split()]
    assert names == ["greeting", "hyperv-shim", "serial-console"]
    assert (tree.root / "usr/bin/greet").is_file()
    assert b"console=ttyS0" in tree.menu.read_bytes()
    assert "nothing is to be done" in run_tree(tree, payload, *recipes).stdout
    assert run_tree(tree, None, "--rollback").returncode == 0
    assert contents(*folders) == before


def test_the_shim_among_recipes_needs_a_payload(tmp_path: Path, greeting: Path) -> None:
    tree = build_tree("rhel5", tmp_path / "guest")
    result = run_tree(tree, None, "--recipe", greeting, "--recipe", "hyperv-shim")
    assert_refused(result, "name the payload's directory with --payload", status=2)


def test_a_payload_says_which_recipes_there_are(root: Path, tmp_path: Path) -> None:
    payload = tmp_path / "payload"
    write_greeting(payload / "own")
    write(payload, "recipes.toml", LIST)
    write(root, "etc/udev/rules.d/70-persistent-net.rules", 'NAME="eth0"\n')
    before = contents(root)
    done(root, "--payload", payload)
    assert (root / "etc/motd").read_text() == "in Bern now\n"
    assert not (root / "etc/udev/rules.d/70-persistent-net.rules").exists()
    done(root, "--rollback")
    assert contents(root) == before
    (payload / "recipes.toml").unlink()
    (payload / "own/greeting.toml").rename(payload / "recipe.toml")
    (payload / "own/files").rename(payload / "files")
    done(root, "--payload", payload)
    assert (root / "etc/motd").read_text() == "in here now\n"


def test_a_payload_s_files_cannot_be_reached_from_a_recipe_that_lies_elsewhere(
    root: Path, greeting: Path, tmp_path: Path
) -> None:
    (greeting.parent / "files/greet").unlink()
    write(tmp_path / "payload", "files/greet", "of somebody else\n")
    result = run(root, "--recipe", greeting, "--payload", tmp_path / "payload")
    assert_refused(result, "the payload has no files/greet beside the recipe")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "nothing"], "--recipe nothing is neither a file nor a recipe: hyperv-shim,"),
        (["--recipe", "serial-console", "--recipe", "serial-console"], "once, not serial-console"),
        (["--recipe", "serial-console", "--rollback"], "--recipe does not go with --rollback"),
        (["--recipe", "serial-console", "--set", "word"], "is NAME=VALUE or RECIPE.NAME=VALUE"),
        (
            ["--recipe", "serial-console", "--set", "word=1"],
            "no recipe of this run has a parameter",
        ),
        (["--recipe", "serial-console", "--set", "other.word=1"], "there is no recipe other in"),
        (["--recipe", "authorized-key"], "authorized-key needs the parameter key"),
        (["--recipe", "hyperv-shim", "--set", "hyperv-shim.a=b"], "hyperv-shim has no parameters"),
        (["--set", "place=Bern"], "--set goes with --recipe"),
        (["--recipe", "serial-console", "--set-file", "speed=/nowhere"], "/nowhere cannot be read"),
        (["--mount", "/var"], "it takes /POINT=DIR"),
        (["--mount", "/boot=/"], "/boot is named with --boot"),
        (["--mount", "/var=/nowhere/at/all"], "--mount /var /nowhere/at/all is not a directory"),
    ],
)
def test_an_invalid_request_is_status_2(options: list[str], message: str, root: Path) -> None:
    before = snapshot(root)
    assert_refused(run(root, *options), message, status=2)
    assert snapshot(root) == before


def test_a_recipe_with_mistakes_is_refused_with_all_their_lines(root: Path, greeting: Path) -> None:
    text = greeting.read_text().replace('"/etc/motd"', '"etc/motd"').replace("mode", "mood")
    greeting.write_text(text)
    result = run(root, "--recipe", greeting)
    assert_refused(result, "greeting.toml:9: ", status=2)
    assert "greeting.toml:16: " in result.stderr


def test_a_parameter_of_two_recipes_is_set_with_the_recipe_s_name(
    root: Path, greeting: Path
) -> None:
    forget = greeting.parent / "forget.toml"
    forget.write_text(FORGET.replace('is now"', 'is now"\ndefault = "here"'))
    options: list[str | Path] = ["--recipe", greeting, "--recipe", forget]
    several = run(root, *options, "--set", "place=Bern")
    assert_refused(several, "say greeting.place or forget.place", status=2)
    shown = done(root, *options, "--set", "greeting.place=Bern", "--dry-run")
    assert "+in Bern now" in shown


def test_a_secret_is_not_shown(root: Path) -> None:
    before = contents(root)
    options: list[str | Path] = ["--recipe", "reset-root-password", "--set", f"hash={HASH}"]
    for output in (done(root, *options, "--dry-run"), done(root, *options, "--json")):
        assert HASH not in output
        assert "shadow" in output
    assert f"root:{HASH}:" in (root / "etc/shadow").read_text()
    done(root, "--rollback")
    assert contents(root) == before


def test_a_secret_may_come_from_a_file(root: Path, tmp_path: Path) -> None:
    (tmp_path / "hash").write_text(f"{HASH}\r\n")
    done(root, "--recipe", "reset-root-password", "--set-file", f"hash={tmp_path / 'hash'}")
    assert f"root:{HASH}:" in (root / "etc/shadow").read_text()


@pytest.mark.parametrize("secret", ["hunter2 #x$y\\z\udcff'\"", "pw=1 hunter2"])
@pytest.mark.parametrize(
    "action",
    [
        'do = "require"\npath = "/etc/fstab"\ncontains = "{s}"',
        'do = "require"\npath = "/etc/{s}"',
        'do = "copy"\npath = "/etc/new"\ncontent = "new"\nowner = "{s}"',
        'do = "lines"\npath = "/etc/fstab"\nensure = "new"\nafter = "{s}"',
        'do = "grub-arguments"\nadd = ["{s}"]',
        'do = "variables"\npath = "/etc/new"\nmissing = "create"\nset = { WORD = "{s}" }',
        'do = "variables"\nstyle = "grubenv"\npath = "/etc/new"\nmissing = "create"\n'
        'set = { word = "{s}" }',
        'do = "fstab"\nentry = { device = "{s}", mount_point = "/new", type = "cifs" }',
        'do = "link"\npath = "/etc/new"\nto = "{s}"',
    ],
)
def test_a_secret_is_not_shown_however_a_text_or_a_refusal_quotes_it(
    action: str, secret: str, root: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "secret.toml"
    recipe.write_text(
        'version = 1\nname = "secret"\ndescription = "it has a secret"\n'
        '[parameters.s]\ndescription = "it"\nsecret = true\nrequired = true\n'
        f"[[action]]\n{action}\n"
    )
    for option in (["--dry-run"], ["--dry-run", "--json"], []):
        result = run(root, "--recipe", recipe, "--set", f"s={secret}", *option)
        assert result.returncode in (0, 1)
        assert "hunter2" not in result.stdout + result.stderr


# Other file systems of the guest


@pytest.fixture
def forget(root: Path, tmp_path: Path) -> Path:
    """A recipe for a guest whose /var is a file system of its own."""
    write(root, "etc/fstab", "/dev/sda1 / ext4\n/dev/sda2 /var ext4\n/dev/sda3 /root ext4\n")
    write(tmp_path / "var", "cache/old", "old\n")
    (tmp_path / "root-s").mkdir()
    path = tmp_path / "forget.toml"
    path.write_text(FORGET.replace('is now"', 'is now"\ndefault = "here"'))
    return path


def test_what_is_not_mounted_is_refused_and_what_is_named_is_changed_and_taken_back(
    root: Path, forget: Path, tmp_path: Path
) -> None:
    var = tmp_path / "var"
    before = contents(root, var)
    refused = run(root, "--recipe", forget)
    assert_refused(refused, "it is not mounted here; name its directory with --mount /var=DIR")
    mounts = ["--mount", f"/var={var}", "--mount", f"/root={tmp_path / 'root-s'}"]
    done(root, "--recipe", forget, *mounts)
    assert not (var / "cache/old").exists()
    assert (var / "cache/new").is_dir()
    assert (root / "var/cache/old").exists()
    applied = contents(root, var)
    assert_refused(run(root, "--rollback"), "/var of the guest is not mounted here; name its")
    assert contents(root, var) == applied
    done(root, "--rollback", *mounts)
    assert contents(root, var) == before


def test_what_is_mounted_at_root_s_home_is_not_the_root(
    root: Path, forget: Path, tmp_path: Path
) -> None:
    home = tmp_path / "root-s"
    before = contents(root, home)
    mounts = ["--mount", f"/root={home}"]
    key = ["--recipe", "authorized-key", "--set", "key=ssh-ed25519 AAAAC3Nz me"]
    done(root, *key, *mounts)
    assert (home / ".ssh/authorized_keys").is_file()
    assert not (root / "root/.ssh").exists()
    done(root, "--rollback", *mounts)
    assert contents(root, home) == before


def test_a_boot_of_its_own_must_be_named_for_the_backups_lie_there(root: Path) -> None:
    write(root, "etc/fstab", "/dev/sda1 / ext4\n/dev/sda2 /boot ext4\n")
    before = snapshot(root)
    assert_refused(run(root, "--recipe", "serial-console"), "name where it is mounted with --boot")
    assert snapshot(root) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_recipe_file_s_folder_may_be_on_another_file_system_than_the_payload(
    root: Path, greeting: Path, tmp_path: Path
) -> None:
    payload = tmp_path / "payload"
    payload.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", payload], check=True)
    try:
        write(payload, "readme", "")
        done(root, "--recipe", greeting, "--payload", payload)
    finally:
        subprocess.run(["umount", payload], check=True)
    assert (root / "usr/bin/greet").is_file()
