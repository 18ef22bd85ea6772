"""hosts.toml: what it says about a host, and every mistake in it named by file and key."""

from pathlib import Path

import pytest

from bootgraft_host.hyperv.hosts import (
    HostSettings,
    hosts_file,
    open_runner,
    parse_hosts,
    read_password,
    read_settings,
)
from bootgraft_host.hyperv.local import LocalRunner
from bootgraft_host.machine import ConfigurationError

PATH = Path("/etc/bootgraft/hosts.toml")
PEM = "-----BEGIN CERTIFICATE-----\n"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "hosts.toml"
    monkeypatch.setenv("BOOTGRAFT_HOSTS", str(path))
    return path


def write_password(path: Path, content: bytes = b"s3cret\n", mode: int = 0o600) -> None:
    path.write_bytes(content)
    path.chmod(mode)


def test_a_host_without_a_table_is_reached_by_the_defaults(file: Path) -> None:
    file.write_text("")
    settings = read_settings("hv1")
    assert settings == HostSettings(host="hv1", file=file, address="hv1")
    assert (settings.port, settings.tls, settings.auth, settings.user) == (
        *(5986, True, "negotiate", None),
    )


def test_every_key_is_read() -> None:
    text = r"""
[hosts."hv1.example.com"]
address = "10.0.0.5"
port = 15986
auth = "negotiate"
user = 'EXAMPLE\operator'
password_file = "hv1.password"
ca_file = "/etc/ssl/example.pem"
upload_folder = 'D:\bootgraft'
[hosts.HV2]
auth = "certificate"
certificate_file = "me.pem"
certificate_key_file = "me.key"
tls_verify = false
[hosts.hv3]
tls = false
auth = "kerberos"
"""
    assert parse_hosts(text.encode(), PATH) == {
        "hv1.example.com": HostSettings(
            host="hv1.example.com",
            file=PATH,
            address="10.0.0.5",
            port=15986,
            user="EXAMPLE\\operator",
            password_file=PATH.parent / "hv1.password",
            ca_file=Path("/etc/ssl/example.pem"),
            upload_folder="D:\\bootgraft",
        ),
        "hv2": HostSettings(
            host="HV2",
            file=PATH,
            address="HV2",
            auth="certificate",
            certificate_file=PATH.parent / "me.pem",
            certificate_key_file=PATH.parent / "me.key",
            tls_verify=False,
        ),
        "hv3": HostSettings(
            host="hv3", file=PATH, address="hv3", port=5985, tls=False, auth="kerberos"
        ),
    }


def test_the_name_of_a_host_is_found_in_any_case(file: Path) -> None:
    file.write_text('[hosts."HV1.example.com"]\nport = 1\n')
    assert read_settings("hv1.EXAMPLE.com").port == 1


@pytest.mark.parametrize(
    ("table", "key", "words"),
    [
        ("passwort_file = 'x'", "passwort_file", "unknown key; known are address, auth"),
        ("port = '5986'", "port", "a port number, found '5986'"),
        ("port = 0", "port", "1 to 65535"),
        ("port = true", "port", "a port number"),
        ("tls = 1", "tls", "true or false"),
        ("auth = 'basic'", "auth", "one of negotiate, kerberos, certificate, found 'basic'"),
        ("auth = 'certificate'", "certificate_file", "missing"),
        ("auth = 'certificate'\ntls = false", "auth", "needs tls"),
        ("auth = 'certificate'\nuser = 'x'\ncertificate_file = 'x'", "user", "means nothing"),
        ("certificate_file = 'x'", "certificate_file", "without auth"),
        ("certificate_key_file = 'x'", "certificate_key_file", "without auth"),
        ("password_file = 'x'", "password_file", "needs user"),
        ("user = ''", "user", "printable text"),
        ('user = "a\\tb"', "user", "printable text"),
        ("user = 1", "user", "a text"),
        ("ca_file = 'x'\ntls = false", "ca_file", "no certificate is verified"),
        ("ca_file = 'x'\ntls_verify = false", "ca_file", "no certificate is verified"),
        ("tls = false\ntls_verify = false", "tls_verify", "without tls"),
        ("upload_folder = 'uploads'", "upload_folder", "not an absolute path of Windows"),
        ("upload_folder = '/srv/iso'", "upload_folder", "not an absolute path of Windows"),
    ],
)
def test_a_mistake_is_named_by_file_host_and_key(table: str, key: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_hosts(f"[hosts.hv1]\n{table}\n".encode(), PATH)
    assert str(caught.value).startswith(f'/etc/bootgraft/hosts.toml: hosts."hv1".{key}: ')
    assert words in str(caught.value)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[hosts\n", "not valid TOML"),
        (b"\xff", "not UTF-8 text"),
        (b"[host.hv1]\n", "host: unknown key; known are hosts"),
        (b"hosts = 1\n", "hosts: expected tables"),
        (b"[hosts]\nhv1 = 1\n", 'hosts."hv1": expected a table'),
        (b"[hosts.hv1]\n[hosts.HV1]\n", 'hosts."HV1": the same host'),
        (b"[hosts.'.']\nport = 1\n", 'hosts.".".port: unknown key; known are upload_folder'),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^/etc/bootgraft/hosts\.toml: ") as caught:
        parse_hosts(content, PATH)
    assert words in str(caught.value)


def test_this_computer_has_an_upload_folder_and_nothing_else(file: Path) -> None:
    file.write_text("[hosts.'.']\nupload_folder = 'E:\\iso'\n")
    assert read_settings(".").upload_folder == "E:\\iso"


# Where the file is.


def test_the_file_is_in_the_configuration_folder_unless_it_is_named() -> None:
    named = {"BOOTGRAFT_HOSTS": "/srv/hosts.toml", "XDG_CONFIG_HOME": "/cfg"}
    assert hosts_file(named) == Path("/srv/hosts.toml")
    assert hosts_file({"XDG_CONFIG_HOME": "/cfg"}) == Path("/cfg/bootgraft/hosts.toml")
    assert hosts_file({}) == Path.home() / ".config/bootgraft/hosts.toml"


def test_a_file_that_was_named_must_exist(file: Path) -> None:
    with pytest.raises(ConfigurationError, match="named by BOOTGRAFT_HOSTS, does not exist"):
        read_settings("hv1")


def test_no_file_at_all_is_no_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BOOTGRAFT_HOSTS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert read_settings("hv1").port == 5986


# The files that it names.


def test_a_password_is_the_only_line_of_its_file(file: Path) -> None:
    file.write_text("[hosts.hv1]\nuser = 'op'\npassword_file = 'hv1.password'\n")
    for content in (" pa\u00df word ", " pa\u00df word \n", " pa\u00df word \r\n"):
        write_password(file.parent / "hv1.password", content.encode())
        assert read_password(read_settings("hv1")) == " pa\u00df word "


def test_without_a_password_file_there_is_no_password(file: Path) -> None:
    file.write_text("")
    assert read_password(read_settings("hv1")) is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_a_password_that_others_may_read_is_refused(file: Path, mode: int) -> None:
    file.write_text("[hosts.hv1]\nuser = 'op'\npassword_file = 'hv1.password'\n")
    path = file.parent / "hv1.password"
    write_password(path, mode=mode)
    with pytest.raises(ConfigurationError) as caught:
        read_settings("hv1")
    assert f'{file}: hosts."hv1".password_file: others may use {path}' in str(caught.value)
    assert f"chmod 600 {path}" in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"s3cret\nmore\n", b"s3cret\xff\n", b"s3cret" * 999]
)
def test_a_password_file_of_another_form_is_refused_and_not_shown(
    file: Path, content: bytes
) -> None:
    file.write_text("[hosts.hv1]\nuser = 'op'\npassword_file = 'hv1.password'\n")
    write_password(file.parent / "hv1.password", content)
    with pytest.raises(ConfigurationError, match="is not one line of printable") as caught:
        read_settings("hv1")
    assert "s3cret" not in repr(caught.value)
    assert caught.value.__context__ is None


def test_settings_show_no_password(file: Path) -> None:
    file.write_text("[hosts.hv1]\nuser = 'op'\npassword_file = 'hv1.password'\n")
    write_password(file.parent / "hv1.password")
    assert "s3cret" not in repr(read_settings("hv1"))


@pytest.mark.parametrize("key", ["password_file", "ca_file", "certificate_file"])
def test_a_file_that_is_named_must_exist(file: Path, key: str) -> None:
    more = {"password_file": "user = 'op'", "certificate_file": "auth = 'certificate'"}
    file.write_text(f"[hosts.hv1]\n{key} = 'missing'\n{more.get(key, '')}\n")
    with pytest.raises(ConfigurationError, match=f"{key}: .*missing: No such file or directory"):
        read_settings("hv1")


def test_a_key_that_asks_for_a_passphrase_is_refused(file: Path) -> None:
    file.write_text(
        "[hosts.hv1]\nauth = 'certificate'\ncertificate_file = 'c'\ncertificate_key_file = 'k'\n"
    )
    (file.parent / "c").write_text(PEM)
    (file.parent / "k").write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    with pytest.raises(ConfigurationError, match=r"certificate_key_file: .* is encrypted"):
        read_settings("hv1")


@pytest.mark.parametrize("key", ["certificate_file", "certificate_key_file"])
def test_a_key_that_others_may_read_is_refused(file: Path, key: str) -> None:
    names = {"certificate_file": "c", "certificate_key_file": "k"}
    lines = "\n".join(f"{each} = '{name}'" for each, name in names.items())
    file.write_text(f"[hosts.hv1]\nauth = 'certificate'\n{lines}\n")
    (file.parent / "c").write_text(PEM)
    (file.parent / "k").write_text(PEM)
    path = file.parent / names[key]
    path.write_text(f"{PEM}-----BEGIN PRIVATE KEY-----\ns3cret\n-----END PRIVATE KEY-----\n")
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match=f"{key}: others may use .*chmod 600") as caught:
        read_settings("hv1")
    assert "s3cret" not in str(caught.value)
    path.chmod(0o600)
    read_settings("hv1")


def test_a_certificate_is_a_pem_file(file: Path) -> None:
    file.write_text("[hosts.hv1]\nca_file = 'ca.der'\n")
    (file.parent / "ca.der").write_bytes(b"\x30\x82")
    with pytest.raises(ConfigurationError, match=r"ca_file: .*ca\.der is not a PEM file"):
        read_settings("hv1")


# Runners.


def test_a_dot_is_this_computer() -> None:
    runner = open_runner(".")
    assert isinstance(runner, LocalRunner)
    assert runner.host == "."


def test_another_host_is_reached_by_winrm_and_not_connected_to_yet(file: Path) -> None:
    file.write_text("[hosts.hv1]\nuser = 'op'\npassword_file = 'hv1.password'\n")
    write_password(file.parent / "hv1.password")
    runner = open_runner("hv1")
    assert type(runner).__name__ == "WinRMRunner"
    assert runner.host == "hv1"
    runner.close()
