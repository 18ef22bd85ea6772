"""A recipe's actions on a guest's tree: what they change, and what they refuse, in words."""

import hashlib
import os
import time
from functools import partial
from pathlib import Path

import pytest

from agent.recipe_guests import I386, make_root, plan, write
from bootgraft_agent.errors import RefusedError
from bootgraft_agent.recipe_file import evaluate as evaluate_module
from bootgraft_agent.recipe_file.facts import LinuxFacts, read_facts
from bootgraft_agent.recipe_file.patterns import MAX_WORK, Work
from bootgraft_agent.tree import Trees
from bootgraft_agent.world import open_world


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A guest with a few things to change."""
    return make_root("debian12", tmp_path)


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    folder = tmp_path / "payload"
    write(folder, "motd", "welcome\n")
    write(folder, "site/a.conf", "a\n")
    write(folder, "site/deep/b.conf", "b\n")
    return folder


def _action(do: str, *lines: str) -> str:
    return "\n".join(["[[action]]", f'do = "{do}"', *lines, ""])


def _refusal(recipe: str, root: Path, payload: Path | None = None) -> str:
    before = {path: path.lstat().st_mtime_ns for path in root.rglob("*")}
    with pytest.raises(RefusedError) as caught:
        plan(recipe, root, payload=payload)
    assert {path: path.lstat().st_mtime_ns for path in root.rglob("*")} == before
    return str(caught.value)


# Copying


def test_a_file_of_the_payload_is_copied(root: Path, payload: Path) -> None:
    digest = hashlib.sha256(b"welcome\n").hexdigest()
    copy = _action("copy", 'source = "motd"', 'path = "/etc/motd"', f'sha256 = "{digest}"')
    assert plan(copy, root, payload=payload).others == ["copy motd to /etc/motd"]


def test_a_directory_of_the_payload_is_copied_with_all_that_is_in_it(
    root: Path, payload: Path
) -> None:
    copy = _action("copy", 'source = "site"', 'path = "/opt/site"', "parents = true")
    assert plan(copy, root, payload=payload).others == [
        "make /opt",
        "make /opt/site",
        "make /opt/site/deep",
        "copy site/a.conf to /opt/site/a.conf",
        "copy site/deep/b.conf to /opt/site/deep/b.conf",
    ]


def test_names_of_iso_9660_without_rock_ridge_are_taken_for_the_author_s(
    root: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "plain"
    for path in ("RECIPE.TOM;1", "SITE/A.CON;1", "SITE/DEEP/B;1"):
        write(folder, path, path)
    copy = _action("copy", 'source = "site"', 'path = "/etc/site"')
    assert sorted(plan(copy, root, payload=folder).others) == [
        "copy SITE/A.CON;1 to /etc/site/a.con",
        "copy SITE/DEEP/B;1 to /etc/site/deep/b",
        "make /etc/site",
        "make /etc/site/deep",
    ]


def test_mode_and_owner_are_those_that_are_asked_for(root: Path, payload: Path) -> None:
    lines = ('path = "/etc/x"', 'content = "a"', 'mode = "0640"', 'owner = "joe"', "group = 42")
    (step,) = plan(_action("copy", *lines), root).steps
    attributes = getattr(step, "attributes", None)
    assert attributes is not None
    assert (attributes.mode, attributes.uid, attributes.gid) == (0o640, 1000, 42)


def test_a_different_file_is_replaced_only_where_that_is_said(root: Path, payload: Path) -> None:
    write(root, "etc/motd", "old\n")
    copy = _action("copy", 'source = "motd"', 'path = "/etc/motd"')
    assert "/etc/motd is there already" in _refusal(copy, root, payload)
    replaced = plan(copy + "replace = true\n", root, payload=payload)
    assert replaced.others == ["copy motd to /etc/motd"]
    text = _action("copy", 'content = "new"', 'path = "/etc/motd"')
    assert "/etc/motd is there already, with another content" in _refusal(text, root)
    assert plan(text + "replace = true\n", root).texts == {"/etc/motd": b"new"}
    write(root, "etc/motd", "new")
    assert plan(text, root).steps == ()


def test_what_cannot_be_copied_is_refused(root: Path, payload: Path) -> None:
    def copied(source: str, *more: str, path: str = "/etc/x") -> str:
        recipe = _action("copy", f'source = "{source}"', f'path = "{path}"', *more)
        return _refusal(recipe, root, payload)

    assert "recipe test, recipe.toml:4: the payload has no none" in copied("none")
    wrong = f'sha256 = "{"0" * 64}"'
    digest = hashlib.sha256(b"welcome\n").hexdigest()
    assert f"{digest}, not {'0' * 64}" in copied("motd", wrong)
    assert "is a directory; sha256 is for a file" in copied("site", wrong)
    assert "have the recipe make it first" in copied("motd", path="/opt/none/x")
    assert "no user 'jane'; give its number" in copied("motd", 'owner = "jane"')
    (payload / "link").symlink_to("/etc/passwd")
    assert "is a link; put the file itself there" in copied("link")
    (payload / "out").symlink_to("..")
    assert "is a link" in copied("out/root/etc/fstab")
    os.mkfifo(payload / "fifo")
    assert "fifo of the payload is no regular file" in copied("fifo")
    (payload / "site/link").symlink_to("a.conf")
    assert "site/link of the payload is a link" in copied("site")


# Removing, renaming, linking


def test_paths_are_removed_renamed_and_linked(root: Path) -> None:
    write(root, "etc/old/a", "")
    write(root, "etc/b", "b")
    recipe = "".join(
        (
            _action("remove", 'path = "/etc/old"', "recursive = true"),
            _action("rename", 'path = "/etc/b"', 'to = "/etc/c"'),
            _action("link", 'path = "/etc/d"', 'to = "c"'),
            _action("directory", 'path = "/srv/a/b"', "parents = true"),
        )
    )
    assert sorted(plan(recipe, root).others) == [
        "link /etc/d to c",
        "make /srv",
        "make /srv/a",
        "make /srv/a/b",
        "remove /etc/old",
        "remove /etc/old/a",
        "rename /etc/b to /etc/c",
    ]


@pytest.mark.parametrize(
    ("action", "problem"),
    [
        (_action("remove", 'path = "/etc/none"'), 'say missing = "skip"'),
        (_action("remove", 'path = "/etc/old"'), "say recursive = true"),
        (_action("rename", 'path = "/etc/none"', 'to = "/etc/x"'), 'say missing = "skip"'),
        (_action("rename", 'path = "/etc/fstab"', 'to = "/etc/passwd"'), "is there already"),
        (
            _action("rename", 'path = "/etc/fstab"', 'to = "/etc/old"', "replace = true"),
            "is a directory, which rename does not replace",
        ),
        (_action("link", 'path = "/etc/fstab"', 'to = "x"'), "is a file already"),
        (_action("link", 'path = "/etc/old"', 'to = "x"', "replace = true"), "is a directory"),
        (_action("directory", 'path = "/etc/fstab"'), "is a file, where a directory"),
        (_action("directory", 'path = "/a/b/c"'), "have the recipe make it first"),
        (_action("lines", 'path = "/etc/none"', 'ensure = "x"'), 'say missing = "skip"'),
        (_action("lines", 'path = "/etc/old"', 'ensure = "x"'), "a directory"),
        (_action("lines", 'path = "/etc/dangling"', 'ensure = "x"', 'missing = "create"'), "link"),
        (_action("lines", 'path = "/etc/loop"', 'ensure = "x"'), "symbolic links"),
        (_action("lines", 'path = "/etc/fifo"', 'ensure = "x"'), "not a regular file"),
        (_action("lines", 'path = "/etc/huge"', 'ensure = "x"'), "bytes long"),
        (_action("lines", 'path = "/etc/fstab"', 'remove = "^/dev"'), "2 lines match ^/dev, and 1"),
        (_action("fstab", 'mount_point = "/srv"', "delete = true"), "0 entries are selected"),
        (_action("variables", 'path = "/etc/x"', 'unset = "A"'), "recipe.toml:4"),
    ],
)
def test_what_is_not_as_an_action_needs_it_is_refused(
    action: str, problem: str, root: Path
) -> None:
    write(root, "etc/old/a", "")
    (root / "etc/dangling").symlink_to("/nowhere")
    (root / "etc/loop").symlink_to("loop")
    os.mkfifo(root / "etc/fifo")
    with (root / "etc/huge").open("wb") as file:
        file.truncate(1 << 40)
    refusal = _refusal(action, root)
    assert refusal.startswith("recipe test, recipe.toml:4: ")
    assert problem in refusal


def test_nothing_outside_the_guest_is_reached_by_links(root: Path, tmp_path: Path) -> None:
    write(tmp_path, "outside/secret", "x\n")
    (root / "etc/out").symlink_to(f"../../../../../../{tmp_path}/outside")
    (root / "etc/file").symlink_to(tmp_path / "outside/secret")
    ensure = ('ensure = "y"', 'missing = "create"')
    assert "recipe.toml:4" in _refusal(_action("lines", 'path = "/etc/out/secret"', *ensure), root)
    assert "leads to nothing" in _refusal(_action("lines", 'path = "/etc/file"', *ensure), root)
    assert (tmp_path / "outside/secret").read_text() == "x\n"


def test_a_parameter_s_value_leads_nowhere_else(root: Path) -> None:
    recipe = '[parameters.name]\ndescription = "a"\nrequired = true\n' + _action(
        "lines", 'path = "/etc/{name}"', 'ensure = "x {name}"', 'missing = "create"'
    )
    assert plan(recipe, root, {"name": "a{name}"}).texts == {"/etc/a{name}": b"x a{name}\n"}
    for bad in ("../passwd", "a/../../b", "/x", "a\nb", ""):
        with pytest.raises(RefusedError, match=r"recipe.toml:7: with the parameters' values"):
            plan(recipe, root, {"name": bad})
    pattern = '[parameters.name]\ndescription = "a"\nrequired = true\n' + _action(
        "lines", 'path = "/etc/x"', 'replace = "^{name}$"', r'with = "<\\0{name}>"'
    )
    write(root, "etc/x", "a.c\nabc\n")
    assert plan(pattern, root, {"name": "a.c"}).texts == {"/etc/x": b"<a.ca.c>\nabc\n"}


# Texts


def test_texts_are_edited_one_after_the_other(root: Path) -> None:
    write(root, "etc/x.ini", "[a]\nb = 1\n")
    recipe = "".join(
        (
            _action("ini", 'path = "/etc/x.ini"', 'section = "a"', 'set = { b = "2" }'),
            _action("ini", 'path = "/etc/x.ini"', 'section = "a"', 'set = { c = "3" }'),
            _action("variables", 'path = "/etc/new"', 'set = { A = "b c" }', 'missing = "create"'),
            _action("variables", 'path = "/etc/new"', 'set = { B = "1" }', 'unset = "A"'),
            _action("variables", 'path = "/etc/s"', 'set = { "a.b" = "1" }', 'style = "plain"')
            + 'missing = "create"\nmode = "0600"\n',
            _action("fstab", 'mount_point = "/"', 'add_options = "noatime"'),
            _action("fstab", 'device = "/dev/.*"', 'set = { dump = "1" }', "count = 2"),
        )
    )
    assert plan(recipe, root).texts == {
        "/etc/x.ini": b"[a]\nb = 2\nc = 3\n",
        "/etc/new": b"B=1\n",
        "/etc/s": b"a.b=1\n",
        "/etc/fstab": b"/dev/xvda1 / ext4 errors=remount-ro,noatime 1 1\n"
        b"/dev/xvda2 none swap sw 1 0\n",
    }


def test_a_whole_recipe_planned_twice_in_one_world_changes_nothing_more(root: Path) -> None:
    one = _action("lines", 'path = "/etc/fstab"', 'ensure = "# mine"')
    assert plan(one, root).texts == plan(one + one, root).texts


def test_an_action_is_carried_out_for_each_interface_and_kernel(tmp_path: Path) -> None:
    root = make_root("rhel6", tmp_path)
    write(root, "etc/sysconfig/network-scripts/ifcfg-eth1", "DEVICE=eth1\n")
    recipe = "".join(
        (
            _action("copy", 'path = "/etc/net-{interface}"', 'content = "{interface} {mac}\\n"')
            + 'for_each = "interfaces"\n',
            _action("copy", 'path = "/etc/k-{kernel}"', 'content = ""', 'for_each = "kernels"'),
        )
    )
    assert plan(recipe, root).texts == {
        "/etc/net-eth0": b"eth0 00:16:3e:00:00:01\n",
        "/etc/net-eth1": b"eth1 \n",
        "/etc/k-2.6.32-754.el6": b"",
    }


# Selectors and preconditions


@pytest.mark.parametrize(
    ("when", "problem"),
    [
        ('distribution = ["rhel", "sles"]', "its distribution is debian, not rhel or sles"),
        ('distribution_version = ">=13"', "its version is 12, not >=13"),
        ('distribution_version = [">12", "<12", "11"]', "its version is 12, not >12 or <12 or 11"),
        ('architecture = "i386"', "its architecture is x86_64, not i386"),
        ('boot_loader = "grub-legacy"', "its boot loader is grub2, not grub-legacy"),
        ('root = "UUID=.*"', "its root file system in fstab is /dev/xvda1, not ^(?:UUID=.*)$"),
        ('present = ["/etc", "/etc/none"]', "there is no /etc/none"),
        ('absent = "/etc/fstab"', "there is a /etc/fstab"),
    ],
)
def test_another_guest_is_refused_with_the_fact_that_differs(
    when: str, problem: str, root: Path
) -> None:
    link = _action("link", 'path = "/etc/x"', 'to = "y"')
    refusal = _refusal(f"[when]\n{when}\n{link}", root)
    assert refusal == f"the recipe test is not for this guest: {problem}"
    assert plan(f"{link}when = {{ {when} }}\n", root).steps == ()


@pytest.mark.parametrize(
    "when",
    [
        'distribution = "debian"',
        'distribution_version = ["11", ">=12, <13"]',
        'architecture = ["x86_64", "aarch64"]',
        'boot_loader = "grub2"',
        'root = "/dev/(xvd|hd)a[0-9]"',
        'present = "/etc/fstab"\nabsent = "/etc/none"',
    ],
)
def test_the_right_guest_is_taken(when: str, root: Path) -> None:
    link = _action("link", 'path = "/etc/x"', 'to = "y"')
    assert plan(f"[when]\n{when}\n{link}", root).others == ["link /etc/x to y"]


def test_preconditions_hold_or_the_guest_is_refused(root: Path) -> None:
    content = (root / "etc/fstab").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    holds = ('path = "/etc/fstab"', f"size = {len(content)}", f'sha256 = "{digest}"')
    assert plan(_action("require", *holds, 'contains = "^/dev/xvda1 "'), root).steps == ()
    assert plan(_action("require", 'path = "/etc/none"', "exists = false"), root).steps == ()
    for lines, problem in (
        (("size = 3",), f"/etc/fstab has {len(content)} bytes, not 3"),
        ((f'sha256 = "{"0" * 64}"',), f"/etc/fstab has the SHA-256 {digest}, not 0000"),
        (('contains = "UUID"',), "no line of /etc/fstab matches UUID"),
        (("exists = false",), "there is a /etc/fstab"),
        (("size = 3", 'message = "too old"'), "too old (/etc/fstab has"),
    ):
        assert problem in _refusal(_action("require", 'path = "/etc/fstab"', *lines), root)
    assert "there is no /etc/none" in _refusal(_action("require", 'path = "/etc/none"'), root)


# Bounds


def test_work_without_end_is_refused_in_reasonable_time(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate_module, "Work", partial(Work, MAX_WORK // 20))
    write(root, "etc/long", "\n".join("ab" * 2000 for _ in range(30)))
    action = _action("lines", 'path = "/etc/long"', 'remove = "(a|b)*a.{60}c"', 'count = "any"')
    start = time.monotonic()
    assert "too much work" in _refusal(action * 900, root)
    assert time.monotonic() - start < 10


# Facts


def _facts(root: Path) -> LinuxFacts:
    boot = root.with_name("boot")
    with open_world(Trees(root, boot if boot.is_dir() else None, None), "x") as world:
        return read_facts(world)


@pytest.mark.parametrize(
    ("name", "distribution", "version", "boot_loader", "device"),
    [
        ("rhel5", "rhel", "5.4", "grub-legacy", "LABEL=/"),
        ("centos5", "centos", "5.3", "grub-legacy", "/dev/VolGroup00/LogVol00"),
        ("sles10", "sles", "10.2", "grub-legacy", "/dev/xvda2"),
        ("lenny", "debian", "5.0.3", "grub-legacy", "/dev/xvda1"),
        ("ubuntu804", "ubuntu", "8.04", "grub-legacy", "UUID=5b6f0a4e-2c1d-4f7c-9d52-0c6e2f1a8b37"),
        ("debian12", "debian", "12", "grub2", "/dev/xvda1"),
        ("fedora", "fedora", "41", "grub2", "UUID=1-2"),
        ("rhel6", "rhel", "6.10", "grub-legacy", "/dev/xvda1"),
        ("arch", "arch", None, "systemd-boot", "/dev/vda2"),
        ("alpine", "alpine", "3.20.1", "none", None),
    ],
)
def test_facts_come_from_the_guest_s_own_files(
    name: str,
    distribution: str,
    version: str | None,
    boot_loader: str,
    device: str | None,
    tmp_path: Path,
) -> None:
    facts = _facts(make_root(name, tmp_path))
    assert (facts.distribution, facts.version) == (distribution, version)
    assert (facts.boot_loader, facts.root_device) == (boot_loader, device)
    assert facts.architecture == "x86_64"
    assert isinstance(facts.to_json(), dict)


def test_interfaces_come_from_every_kind_of_configuration(tmp_path: Path) -> None:
    names = {"debian12": ["ens3"], "fedora": ["enp1s0"], "rhel6": ["eth0"], "arch": []}
    for name, expected in names.items():
        facts = _facts(make_root(name, tmp_path / name))
        assert [each.name for each in facts.interfaces] == expected


def test_a_guest_that_says_nothing_has_no_facts(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root, "bin/sh", I386)
    assert _facts(root) == LinuxFacts(None, None, (), "i386", "none", None, None, (), ())


def test_a_boot_partition_that_is_not_there_is_said(tmp_path: Path) -> None:
    root = make_root("rhel5", tmp_path)
    (tmp_path / "boot").rename(tmp_path / "away")
    facts = _facts(root)
    assert facts.boot_loader is None
    assert "it is not mounted here" in (facts.boot_problem or "")
    assert "kernel arguments: /boot" in _refusal(_action("grub-arguments", 'add = "x"'), root)
