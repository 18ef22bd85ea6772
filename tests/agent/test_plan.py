"""What a plan shows of a guest: no secret of any kind."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootgraft_agent.errors import InvalidRequestError
from bootgraft_agent.plan import (
    MAX_SHOWN,
    BootCheck,
    CreateFile,
    Options,
    Plan,
    Step,
    Target,
    WriteFile,
    readable,
)
from bootgraft_agent.secrets_mask import mask_secrets, mask_text
from bootgraft_agent.states import Attributes
from bootgraft_agent.view import outcome_json, plan_json, plan_lines
from bootgraft_agent.volumes import Outcome

SECRET = "hunter2"  # noqa: S105


@pytest.mark.parametrize(
    "text",
    [
        "//srv/s /m cifs username=joe%hunter2,rw",
        "//srv/s /m cifs password=x,,hunter2,rw",
        "admin@1.2.3.4:/ /m ceph name=admin,secret=hunter2",
        "kernel /v rootpw=hunter2 quiet",
        "kernel /v passphrase=hunter2",
        "kernel /v iscsi_password=hunter2 rd.iscsi.password=hunter2",
        "kernel /v dbpass=hunter2 wpa_psk=hunter2 rd.luks.key=hunter2",
        "kernel /v pass=a,hunter2 ro",
        "kernel /v password='a hunter2' ro",
        'kernel /v password="a hunter2" ro',
        'kernel /v "password=a hunter2" ro',
        'kernel /v "x=1 password=a hunter2" ro',
        'kernel /v password=a" hunter2" ro',
        'kernel /v password="a hunter2',
        "kernel /v netroot=iscsi:joe:hunter2@10.0.0.1::3260::iqn",
        "curlftpfs#joe:hunter2@ftp.example /m fuse rw",
        "//joe:hunter2@srv/share /m cifs",
        "ftp://joe:p@hunter2@host/ /m",
        "https://joe:pa/hunter2@dav/ /m davfs",
        "joe:hunter2@host:/dir /m fuse",
        "  password --md5 $1$hunter2",
        "#password hunter2",
        "# //srv/s /m cifs PASSWORD=hunter2",
    ],
)
def test_secrets_are_masked(text: str) -> None:
    shown = readable(text.encode())
    assert SECRET not in shown
    assert "********" in shown
    assert mask_text(text) == shown
    assert mask_text(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "title Appliance (2.6.18-8.el5xen)",
        "kernel /vmlinuz ro root=/dev/xvda2 console=xvc0 quiet KEYTABLE=us keymap=de",
        "LABEL=/ / ext3 defaults,user_xattr 1 1",
        "proc /proc proc defaults 0 0",
        "# built by root@build",
        "nfs.example:/export /m nfs ro 0 0",
        "1:2345:respawn:/sbin/mingetty tty1",
        "link hda2:/etc/systemd/system/x.wants/serial-getty@ttyS0.service to /lib/getty@.service",
        "sda1[@rootfs]:/etc/systemd/system/getty@tty1.service, mode 0644",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert mask_text(text) == text


@given(st.text(st.sampled_from("ab=/#:@,'\" \n\\pasword"), max_size=80))
def test_masking_twice_changes_nothing_more(text: str) -> None:
    assert mask_text(mask_text(text)) == mask_text(text)


@pytest.mark.parametrize("unit", [b"a", b"pass=", b"@", b"a:@", b"'", b'"pw=', b"//", b"password "])
def test_masking_a_long_line_takes_no_long_time(unit: bytes) -> None:
    start = time.monotonic()
    mask_secrets(unit * (128 * 1024 // len(unit)))
    assert time.monotonic() - start < 5


def test_text_that_is_not_utf8_can_be_masked() -> None:
    assert mask_text("\udcff password=x \ud800") == "\udcff password=******** \ud800"


def test_no_warning_or_step_shows_a_secret() -> None:
    menu = Target("boot", "hda1", "grub/menu.lst")
    plan = Plan(
        recipe="r",
        steps=(WriteFile(menu, b"a", b"password hunter2\n", "'x secret=hunter2' is the default"),),
        check=BootCheck(menu, 0, ()),
        backups="bootgraft",
        warnings=("root=ftp://joe:hunter2@h fits nothing",),
    )
    outcome = Outcome("id", (), (), ("left: pass=hunter2",))
    shown = [str(plan_json(plan)), str(outcome_json(outcome, plan)), "\n".join(plan_lines(plan))]
    assert all("********" in each and SECRET not in each for each in shown)


def test_shim_arguments_can_be_taken_away_but_no_name_can_be_empty() -> None:
    Options(shim_args="").check()
    for name in ("kernel", "shim"):
        with pytest.raises(InvalidRequestError, match="is empty or unprintable"):
            Options(**{name: " "}).check()


def make_plan(*steps: Step, secrets: tuple[str, ...] = ()) -> Plan:
    return Plan("recipe:1", steps, None, "boot/bootgraft", (), secrets=secrets)


def new_file(path: str, content: bytes) -> CreateFile:
    return CreateFile(Target("root", "vda1", path), content, Attributes(0o600, 0, 0, ()), "new")


def test_a_new_file_is_shown_as_lines_that_come_unless_it_is_no_text() -> None:
    plan = make_plan(new_file("etc/a", b"one\n"), new_file("etc/b", b"\0binary"))
    ((path, diff),) = plan.diffs()
    assert path == "vda1:/etc/a"
    assert diff.splitlines()[-2:] == ["+one", " "]


def test_secrets_of_recipes_are_nowhere_to_be_read() -> None:
    key = "-----BEGIN KEY-----\nQUJDREVG\nR0hJSktM\n-----END KEY-----\n"
    step = new_file("etc/key", f"the key:\n{key}and hunter2\n".encode())
    plan = make_plan(step, secrets=(key, "hunter2"))
    shown = json.dumps([plan_json(plan), outcome_json(Outcome("run-1", (), ()), plan)])
    shown += "\n".join(plan_lines(plan))
    assert "the key:" in shown
    for word in ("hunter2", "QUJDREVG", "R0hJSktM"):
        assert word not in shown


def test_what_is_shown_of_many_files_is_bounded() -> None:
    steps = [new_file(f"etc/{number}", b"x" * 100_000) for number in range(100)]
    assert sum(len(after) for _, _, after in make_plan(*steps).texts()) <= MAX_SHOWN
