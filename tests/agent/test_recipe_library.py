"""The library's recipes on trees of several distributions: what they change, and no more."""

import contextlib
from pathlib import Path

import pytest

from agent.recipe_guests import NEWER, make_root, plan, write
from bootgraft_agent.errors import RefusedError
from bootgraft_agent.plan import CreateFile, MakeDirectory
from bootgraft_agent.recipe_file import (
    RecipeError,
    check_text,
    explain_library,
    library,
    list_library,
)

SAMPLE_NAMES = ("rhel5", "centos5", "sles10", "opensuse", "lenny", "ubuntu804", "crlf", "saved")
ALL_NAMES = (*SAMPLE_NAMES, *NEWER)
SETTINGS = {
    "authorized-key": {"key": "ssh-ed25519 AAAAC3Nza me@here"},
    "cloud-init-seed": {"hostname": "web"},
    "reset-root-password": {"hash": "$6$salt$" + "x" * 86},
}


def _added(before: bytes, after: bytes) -> list[str]:
    """Give the lines that were added; all others must still be there, in their order."""
    rest = iter(after.split(b"\n"))
    added: list[str] = []
    for line in before.removesuffix(b"\n").split(b"\n"):
        for other in rest:
            if other == line:
                break
            added.append(other.decode())
        else:
            pytest.fail(f"{line!r} is gone")
    return [*added, *(line.decode() for line in rest if line)]


def test_the_library_has_what_people_need_each_with_its_own_name() -> None:
    assert list(library()) == [
        "authorized-key",
        "cloud-init-seed",
        "drop-persistent-net",
        "initrd-drivers",
        "names-to-uuids",
        "reset-root-password",
        "serial-console",
    ]
    assert all(name == recipe.name for name, recipe in library().items())
    listed = "\n".join(list_library())
    assert "reset-root-password: root's password is another one" in listed
    for name in library():
        assert explain_library(name, {})
    with pytest.raises(RecipeError, match="the library has no recipe 'none'"):
        explain_library("none", {})
    assert check_text(b"version = 1", "r.toml")


def test_explanations_say_modes_and_count_lines() -> None:
    key = "\n".join(explain_library("authorized-key", {}))
    assert '"<key>" is there at the end; where it is not there, it is made with mode 0600' in key
    assert '"virtio_scsi" are there at the end;' in "\n".join(explain_library("initrd-drivers", {}))


@pytest.mark.parametrize("guest", ALL_NAMES)
@pytest.mark.parametrize("name", sorted(library()))
def test_every_recipe_may_be_planned_on_every_guest_and_changes_nothing(
    name: str, guest: str, tmp_path: Path
) -> None:
    root = make_root(guest, tmp_path)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with contextlib.suppress(RefusedError):  # not the same on all
        plan(name, root, SETTINGS.get(name))
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def menu_of(root: Path, menu: str) -> Path:
    beside = root.with_name("boot") / menu.removeprefix("/boot/")
    return beside if beside.exists() else root / menu[1:]


LOGIN = "S0:2345:respawn:/sbin/{} -L 115200 ttyS0 vt102"


@pytest.mark.parametrize(
    ("guest", "program", "menu"),
    [
        ("rhel5", "agetty", "/boot/grub/grub.conf"),
        ("sles10", "agetty", "/boot/grub/menu.lst"),
        ("lenny", "getty", "/boot/grub/menu.lst"),
    ],
)
def test_serial_console_on_sysv_guests(guest: str, program: str, menu: str, tmp_path: Path) -> None:
    root = make_root(guest, tmp_path)
    write(root, f"sbin/{program}", "")
    planned = plan("serial-console", root)
    inittab = (root / "etc/inittab").read_bytes()
    assert _added(inittab, planned.texts["/etc/inittab"]) == [LOGIN.format(program)]
    securetty = (root / "etc/securetty").read_bytes()
    assert _added(securetty, planned.texts["/etc/securetty"]) == ["ttyS0"]
    old, new = (menu_of(root, menu)).read_text(), planned.texts[menu].decode()
    for before, after in zip(old.split("\n"), new.split("\n"), strict=True):
        assert after in (before, f"{before} console=ttyS0,115200") or after == (
            f"{before} console=tty0 console=ttyS0,115200"
        )
    assert "console=ttyS0,115200" in new
    assert planned.others == []
    assert planned.warnings == []


def test_serial_console_leaves_a_login_that_is_there(tmp_path: Path) -> None:
    root = make_root("sles10", tmp_path)
    inittab = (root / "etc/inittab").read_text().replace("#S0:", "S0:")
    write(root, "etc/inittab", inittab)
    assert "/etc/inittab" not in plan("serial-console", root).texts


def test_serial_console_on_guests_with_systemd(tmp_path: Path) -> None:
    planned = plan("serial-console", make_root("debian12", tmp_path), {"port": "ttyS1"})
    old = NEWER["debian12"]["etc/default/grub"]
    assert planned.texts == {
        "/etc/default/grub": old.replace(
            'LINUX=""', 'LINUX="console=tty0 console=ttyS1,115200"'
        ).encode()
    }
    system = "/etc/systemd/system"
    wants = f"{system}/getty.target.wants"
    assert planned.others == [
        "make /etc/systemd",
        f"make {system}",
        f"make {wants}",
        f"link {wants}/serial-getty@ttyS1.service to /lib/systemd/system/serial-getty@.service",
    ]
    assert "grub.cfg is generated and was left alone" in planned.warnings[0]


def test_serial_console_on_guests_whose_lib_is_not_usr_lib(tmp_path: Path) -> None:
    root = make_root("sles10", tmp_path)
    unit = "usr/lib/systemd/system/serial-getty@.service"
    write(root, unit, "[Unit]\n")
    planned = plan("serial-console", root)
    wants = "/etc/systemd/system/getty.target.wants"
    assert planned.others[-1] == f"link {wants}/serial-getty@ttyS0.service to /{unit}"
    assert "/etc/inittab" not in planned.texts


def test_serial_console_on_guests_with_boot_loader_entries(tmp_path: Path) -> None:
    texts = plan("serial-console", make_root("fedora", tmp_path / "a")).texts
    arguments = b" console=tty0 console=ttyS0,115200"
    assert texts["/boot/loader/entries/a.conf"].endswith(b"ro rhgb" + arguments + b"\n")
    assert "/boot/loader/entries/b.conf" not in texts
    assert b"kernelopts=root=UUID=1-2 ro" + arguments + b"\n#" in texts["/boot/grub2/grubenv"]
    assert len(texts["/boot/grub2/grubenv"]) == 1024
    texts = plan("serial-console", make_root("arch", tmp_path / "b")).texts
    assert texts["/boot/loader/entries/arch.conf"].endswith(b"rw" + arguments + b"\n")


def test_serial_console_on_guests_with_upstart(tmp_path: Path) -> None:
    root = make_root("ubuntu804", tmp_path)
    write(root, "sbin/getty", "")
    texts = plan("serial-console", root, {"speed": "9600"}).texts
    assert b"exec /sbin/getty -L 9600 ttyS0 vt102\n" in texts["/etc/event.d/ttyS0"]


def test_serial_console_on_guests_with_busybox(tmp_path: Path) -> None:
    root = make_root("alpine", tmp_path)
    texts = plan("serial-console", root).texts
    old = (root / "etc/inittab").read_bytes()
    added = ["ttyS0::respawn:/sbin/getty -L 115200 ttyS0 vt102"]
    assert _added(old, texts["/etc/inittab"]) == added


def test_names_to_uuids_in_fstab_and_menu(tmp_path: Path) -> None:
    root = make_root("lenny", tmp_path)
    planned = plan("names-to-uuids", root, uuids={"/": "1-2", "swap": "3-4"})
    fstab = (root / "etc/fstab").read_bytes()
    expected = fstab.replace(b"/dev/xvda1", b"UUID=1-2").replace(b"/dev/xvda2", b"UUID=3-4")
    assert planned.texts["/etc/fstab"] == expected
    menu = (root / "boot/grub/menu.lst").read_bytes()
    assert b"root=/dev/xvda1" in menu
    assert planned.texts["/boot/grub/menu.lst"] == menu.replace(b"=/dev/xvda1", b"=UUID=1-2")
    assert planned.warnings == []


def test_names_to_uuids_takes_the_names_by_id_of_suse(tmp_path: Path) -> None:
    root = make_root("sles10", tmp_path)
    disk = "/dev/disk/by-id/ata-VMware_Virtual_IDE_Hard_Drive_0001"
    fstab = f"{disk}-part2 / ext3 acl 1 1\n{disk}-part1 swap swap defaults 0 0\n"
    others = (
        "/dev/disk/by-id/dm-name-a-b /srv xfs defaults 0 0\n"
        "/dev/disk/by-id/scsi-SVMware_0002-part1 /data ext3 defaults 0 0\n"
    )
    write(root, "etc/fstab", fstab + others)
    menu = (
        f"title a\n kernel /vmlinuz root={disk}-part2 resume={disk}-part1 showopts\n"
        " initrd /initrd\n"
    )
    menu_of(root, "/boot/grub/menu.lst").write_text(menu)
    uuids = {"/": "1-2", "swap": "3-4", f"{disk}-part1": "3-4"}
    planned = plan("names-to-uuids", root, uuids=uuids)
    expected = fstab.replace(f"{disk}-part2", "UUID=1-2").replace(f"{disk}-part1", "UUID=3-4")
    assert planned.texts["/etc/fstab"].decode() == expected + others
    assert b"root=UUID=1-2 resume=UUID=3-4 showopts" in planned.texts["/boot/grub/menu.lst"]
    assert planned.warnings == [
        "names-to-uuids: the UUID of /dev/disk/by-id/scsi-SVMware_0002-part1 is not known;"
        " fstab's line stays as it is"
    ]


def test_names_to_uuids_says_which_are_not_known(tmp_path: Path) -> None:
    root = make_root("arch", tmp_path)
    planned = plan("names-to-uuids", root)
    assert planned.steps == ()
    assert planned.warnings == [
        "names-to-uuids: the UUID of /dev/vda2 is not known; the kernel's argument stays as it is",
        "names-to-uuids: the UUID of /dev/vda2 is not known; fstab's line stays as it is",
    ]
    texts = plan("names-to-uuids", root, uuids={"/": "a-b"}).texts
    assert b"options root=UUID=a-b rw\n" in texts["/boot/loader/entries/arch.conf"]


def test_names_to_uuids_leaves_a_kernel_without_initrd(tmp_path: Path) -> None:
    root = make_root("rhel6", tmp_path)
    menu = (root / "boot/grub/grub.conf").read_text().replace("\tinitrd /initrd\n", "")
    write(root, "boot/grub/grub.conf", menu)
    planned = plan("names-to-uuids", root, uuids={"/": "a-b", "swap": "c"})
    assert list(planned.texts) == ["/etc/fstab"]
    assert planned.warnings == [
        "names-to-uuids: /dev/xvda1 stays in the menu: an entry without initrd names it"
    ]


def test_drop_persistent_net(tmp_path: Path) -> None:
    planned = plan("drop-persistent-net", make_root("rhel6", tmp_path / "a"))
    assert planned.texts == {"/etc/sysconfig/network-scripts/ifcfg-eth0": b"DEVICE=eth0\n"}
    assert planned.others == ["remove /etc/udev/rules.d/70-persistent-net.rules"]
    planned = plan("drop-persistent-net", make_root("debian12", tmp_path / "b"))
    assert planned.steps == ()
    (warning,) = planned.warnings
    assert "netplan, NetworkManager or a .link file of systemd names stays" in warning


def test_initrd_drivers(tmp_path: Path) -> None:
    root = make_root("debian12", tmp_path / "a")
    planned = plan("initrd-drivers", root)
    drivers = ["hv_vmbus", "hv_storvsc", "virtio_pci", "virtio_blk", "virtio_scsi"]
    old = (root / "etc/initramfs-tools/modules").read_bytes()
    assert _added(old, planned.texts["/etc/initramfs-tools/modules"]) == drivers
    assert "the initrd itself is not rebuilt" in planned.warnings[0]
    texts = plan("initrd-drivers", make_root("fedora", tmp_path / "b")).texts
    line = f'add_drivers+=" {" ".join(drivers)} "\n'.encode()
    assert texts == {"/etc/dracut.conf.d/80-hypervisor-drivers.conf": line}
    root = make_root("sles10", tmp_path / "c")
    write(root, "etc/sysconfig/kernel", '# x\nINITRD_MODULES="piix"\nY=""\n')
    texts = plan("initrd-drivers", root).texts
    expected = f'# x\nINITRD_MODULES="piix {" ".join(drivers)}"\nY=""\n'
    assert texts == {"/etc/sysconfig/kernel": expected.encode()}


@pytest.mark.parametrize("guest", ["alpine", "rhel5"])
def test_initrd_drivers_refuses_a_guest_without_a_list_that_it_knows(
    guest: str, tmp_path: Path
) -> None:
    root = make_root(guest, tmp_path)
    write(root, "etc/sysconfig/kernel", "UPDATEDEFAULT=yes\n")
    with pytest.raises(RefusedError, match="the guest has no list for its initrd"):
        plan("initrd-drivers", root)


def test_cloud_init_seed(tmp_path: Path) -> None:
    root = make_root("debian12", tmp_path)
    installer = "etc/cloud/cloud.cfg.d/99-installer.cfg"  # as subiquity writes it
    write(root, installer, "datasource_list:\n- None\n")
    write(root, "etc/cloud/cloud-init.disabled", "Disabled by Ubuntu live installer\n")
    data = "#cloud-config\npassword: hunter2\n"
    settings = {"hostname": "web", "instance-id": "i-2", "user-data": data}
    planned = plan("cloud-init-seed", root, settings)
    seed = "/var/lib/cloud/seed/nocloud"
    assert planned.texts == {
        f"{seed}/meta-data": b"instance-id: i-2\nlocal-hostname: web\n",
        f"{seed}/user-data": data.encode(),
        "/etc/cloud/cloud.cfg.d/zz-bootgraft-seed.cfg": b"datasource_list: [ NoCloud, None ]\n",
    }
    assert sorted([*planned.texts, f"/{installer}"])[1].endswith("/zz-bootgraft-seed.cfg")
    assert "remove /etc/cloud/cloud-init.disabled" in planned.others
    assert "hunter2" not in "".join(step.describe() for step in planned.steps)


def test_authorized_key(tmp_path: Path) -> None:
    root = make_root("debian12", tmp_path)
    key = SETTINGS["authorized-key"]["key"]
    planned = plan("authorized-key", root, {"key": key})
    assert planned.texts == {"/root/.ssh/authorized_keys": f"{key}\n".encode()}
    made = [
        step.attributes for step in planned.steps if isinstance(step, MakeDirectory | CreateFile)
    ]
    assert [each and each.mode for each in made] == [0o700, 0o600]
    write(root, "home/joe/.ssh/authorized_keys", "ssh-rsa AAAA other\n")
    planned = plan("authorized-key", root, {"key": key, "user": "joe", "home": "/home/joe"})
    expected = f"ssh-rsa AAAA other\n{key}\n".encode()
    assert planned.texts == {"/home/joe/.ssh/authorized_keys": expected}
    with pytest.raises(RefusedError, match="name the user's home directory"):
        plan("authorized-key", root, {"key": key, "home": "/home/nobody"})
    with pytest.raises(RefusedError, match="no user 'jane'"):
        plan("authorized-key", root, {"key": key, "user": "jane", "home": "/home/joe"})
    with pytest.raises(RefusedError, match="/root is not the home directory of joe"):
        plan("authorized-key", root, {"key": key, "user": "joe"})
    with pytest.raises(RecipeError, match="the parameter key must match"):
        plan("authorized-key", root, {"key": 'command="x" ssh-rsa AAAA'})


def test_reset_root_password_takes_a_hash_that_somebody_has_given(tmp_path: Path) -> None:
    root = make_root("debian12", tmp_path)
    new = SETTINGS["reset-root-password"]["hash"]
    planned = plan("reset-root-password", root, {"hash": new})
    old = (root / "etc/shadow").read_bytes()
    others = old.partition(b"\n")[2]
    assert planned.texts == {"/etc/shadow": b"root:" + new.encode() + b":::::::\n" + others}
    write(root, "etc/shadow", b"bin:*:1:0:::::\nroot:!$1$a$b:15000:0:90:7:30:15100:\n" + others)
    expired = plan("reset-root-password", root, {"hash": new}).texts["/etc/shadow"]
    assert expired == b"bin:*:1:0:::::\nroot:" + new.encode() + b":::::::\n" + others
    with pytest.raises(RecipeError, match="needs the parameter hash"):
        plan("reset-root-password", root)
    for bad in ("$6$a$b:0:0:::::\nx::0", "$6$a$b:0:0:::::", "plain"):
        with pytest.raises(RecipeError, match="the parameter hash must"):
            plan("reset-root-password", root, {"hash": bad})
