"""hosts.toml: how to reach Hyper-V hosts; a host without a table is reached by the defaults.

::

    [hosts."hv1.example.com"]            # as in hyperv://hv1.example.com/VM
    address = "hv1.lab.example.com"      # where it is, as in its certificate; by default HOST
    port = 5986                          # by default 5986, or 5985 without tls
    tls = true                           # false: HTTP, its content encrypted by auth's own means
    auth = "negotiate"                   # negotiate, kerberos or certificate
    user = 'EXAMPLE\\operator'            # by default who is logged in, or the Kerberos ticket
    password_file = "hv1.password"       # one line; nobody else may read it
    ca_file = "example-ca.pem"           # who signed the host's certificate, or the certificate
    tls_verify = true                    # false: any certificate will do, which is logged
    certificate_file = "me.pem"          # with auth = "certificate"
    certificate_key_file = "me.key"      # where it is not in certificate_file; for you alone
    upload_folder = 'D:\\bootgraft'       # a folder on the host, for --upload

Relative paths start at the file's folder. It is $BOOTGRAFT_HOSTS, or else
$XDG_CONFIG_HOME/bootgraft/hosts.toml. Reading is strict: an unknown key is a mistake.
"""

import os
import shlex
import stat
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import BinaryIO, Literal, TypeVar, get_args

from bootgraft_host.hyperv.local import LocalRunner
from bootgraft_host.hyperv.runner import Runner
from bootgraft_host.machine import ConfigurationError

Auth = Literal["negotiate", "kerberos", "certificate"]

THIS_COMPUTER = "."
TLS_PORT = 5986
PLAIN_PORT = 5985
PASSWORD_LIMIT = 1024  # bytes; what is longer is some other file

_KEYS = (
    *("address", "auth", "ca_file", "certificate_file", "certificate_key_file", "password_file"),
    *("port", "tls", "tls_verify", "upload_folder", "user"),
)
_LOCAL_KEYS = ("upload_folder",)  # nothing else is asked on this computer

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class HostSettings:
    """How one host is reached."""

    host: str  # as in hyperv://HOST/VM; "." is this computer
    file: Path  # the hosts.toml that says it, or would
    address: str
    port: int = TLS_PORT
    tls: bool = True
    tls_verify: bool = True
    auth: Auth = "negotiate"
    user: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    certificate_key_file: Path | None = None
    upload_folder: str | None = None

    @property
    def table(self) -> str:
        """The host's table in hosts.toml, for messages."""
        return f'[hosts."{self.host}"] of {self.file}'


def open_runner(host: str) -> Runner:
    """Give a runner for a host; nothing is connected yet.

    Raises ConfigurationError where hosts.toml, or a file that it names, is not right.
    """
    if host == THIS_COMPUTER:
        return LocalRunner()
    # 0.7 s that only those who use WinRM wait for
    from bootgraft_host.hyperv.winrm import WinRMRunner  # noqa: PLC0415

    return WinRMRunner(read_settings(host))


def read_settings(host: str) -> HostSettings:
    """Read how `host` is reached, and check the files that its table names."""
    path = hosts_file(os.environ)
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        if os.environ.get("BOOTGRAFT_HOSTS"):
            raise ConfigurationError(f"{path}, named by BOOTGRAFT_HOSTS, does not exist") from error
        data = b""
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    settings = parse_hosts(data, path).get(host.lower())
    if settings is None:
        return HostSettings(host=host, file=path, address=host)
    _check_files(settings)
    return settings


def hosts_file(environment: Mapping[str, str]) -> Path:
    """Give the path of hosts.toml, absolute."""
    if named := environment.get("BOOTGRAFT_HOSTS"):
        return Path(named).absolute()
    home = environment.get("XDG_CONFIG_HOME", "")
    try:
        base = Path(home) if Path(home).is_absolute() else Path.home() / ".config"
    except RuntimeError as error:
        raise ConfigurationError(
            "you have no home directory: name hosts.toml in BOOTGRAFT_HOSTS"
        ) from error
    return base / "bootgraft" / "hosts.toml"


def parse_hosts(data: bytes, path: Path) -> dict[str, HostSettings]:
    """Parse the content of hosts.toml, at the absolute `path`: settings by the host in lower case.

    Raises ConfigurationError, whose message names the file, the key and the mistake.
    """
    try:
        document: Mapping[str, object] = tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not UTF-8 text: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: not valid TOML: {error}") from error
    root = _Table(document, path, "")
    root.refuse_others(("hosts",))
    hosts = root.take("hosts", dict, 'tables, [hosts."NAME"]', {})
    settings: dict[str, HostSettings] = {}
    for host, values in hosts.items():
        where = f'hosts."{host}"'
        if not isinstance(values, dict):
            raise root.mistake(where, f"expected a table, found {values!r}")
        if host.lower() in settings:
            raise root.mistake(where, "the same host has a table already")
        settings[host.lower()] = _parse_host(host, _Table(values, path, f"{where}."))
    return settings


def _parse_host(host: str, table: "_Table") -> HostSettings:
    table.refuse_others(_LOCAL_KEYS if host == THIS_COMPUTER else _KEYS)
    tls = table.take("tls", bool, "true or false", True)
    settings = HostSettings(
        host=host,
        file=table.file,
        address=table.text("address") or host,
        port=table.port(TLS_PORT if tls else PLAIN_PORT),
        tls=tls,
        tls_verify=table.take("tls_verify", bool, "true or false", True),
        auth=_parse_auth(table),
        user=table.text("user"),
        password_file=table.path("password_file"),
        ca_file=table.path("ca_file"),
        certificate_file=table.path("certificate_file"),
        certificate_key_file=table.path("certificate_key_file"),
        upload_folder=_parse_upload_folder(table),
    )
    for key, problem in _find_contradictions(settings):
        raise _mistake_in(settings, key, problem)
    return settings


def _parse_auth(table: "_Table") -> Auth:
    known: tuple[Auth, ...] = get_args(Auth)
    text = table.text("auth") or "negotiate"
    for auth in known:
        if auth == text:
            return auth
    raise table.mistake("auth", f"expected one of {', '.join(known)}, found {text!r}")


def _parse_upload_folder(table: "_Table") -> str | None:
    folder = table.text("upload_folder")
    if folder is not None and not (path := PureWindowsPath(folder)).is_absolute():
        raise table.mistake("upload_folder", f"{path} is not an absolute path of Windows")
    return folder


def _find_contradictions(settings: HostSettings) -> Iterator[tuple[str, str]]:
    """Find keys that mean nothing, or not enough, beside the others."""
    certificate = settings.auth == "certificate"
    if certificate and not settings.tls:
        yield "auth", '"certificate" needs tls'
    if certificate and settings.user:
        yield "user", 'means nothing with auth = "certificate"'
    if settings.password_file and not settings.user:
        yield "password_file", "needs user"
    if certificate and not settings.certificate_file:
        yield "certificate_file", 'missing; auth = "certificate" needs it'
    if settings.certificate_file and not certificate:
        yield "certificate_file", 'means nothing without auth = "certificate"'
    if settings.certificate_key_file and not certificate:
        yield "certificate_key_file", 'means nothing without auth = "certificate"'
    if not settings.tls and not settings.tls_verify:
        yield "tls_verify", "means nothing without tls"
    if settings.ca_file and not (settings.tls and settings.tls_verify):
        yield "ca_file", "means nothing where no certificate is verified"


class _Table:
    """A table of the file; `where` is what its keys are named by, as in 'hosts."hv1".'."""

    def __init__(self, values: Mapping[str, object], file: Path, where: str) -> None:
        self._values = values
        self.file = file
        self._where = where

    def mistake(self, key: str, text: str) -> ConfigurationError:
        return ConfigurationError(f"{self.file}: {self._where}{key}: {text}")

    def refuse_others(self, known: tuple[str, ...]) -> None:
        for key in sorted(set(self._values) - set(known)):
            raise self.mistake(key, f"unknown key; known are {', '.join(known)}")

    def take(self, key: str, kind: type[_Value], expected: str, default: _Value) -> _Value:
        value = self._values.get(key, default)
        if type(value) is not kind:  # a bool is an int, too
            raise self.mistake(key, f"expected {expected}, found {value!r}")
        return value

    def text(self, key: str) -> str | None:
        if key not in self._values:
            return None
        text = self.take(key, str, "a text", "")
        if not text.strip() or not text.isprintable():
            raise self.mistake(key, f"expected printable text, found {text!r}")
        return text

    def path(self, key: str) -> Path | None:
        text = self.text(key)
        return None if text is None else self.file.parent / text

    def port(self, default: int) -> int:
        port = self.take("port", int, "a port number", default)
        if not 1 <= port <= 65535:
            raise self.mistake("port", f"expected 1 to 65535, found {port}")
        return port


# Files that hosts.toml names.


def read_password(settings: HostSettings) -> str | None:
    """Read the password of a host's user; None where none is kept in a file.

    Raises ConfigurationError where others may read the file.
    """
    path = settings.password_file
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            mode = _read_mode(file)
            data = file.read(PASSWORD_LIMIT + 1)
    except OSError as error:
        raise _mistake_in(settings, "password_file", f"{path}: {error.strerror}") from error
    _refuse_others(settings, "password_file", path, mode)
    return _parse_password(settings, data)


def _read_mode(file: BinaryIO) -> int:
    return stat.S_IMODE(os.fstat(file.fileno()).st_mode)


def _refuse_others(settings: HostSettings, key: str, path: Path, mode: int) -> None:
    """Refuse a secret that others may use; on Windows a mode says nothing about them."""
    if mode & 0o077 and sys.platform != "win32":
        raise _mistake_in(
            settings,
            key,
            f"others may use {path}, its mode is {mode:03o}:"
            f" run `chmod 600 {shlex.quote(str(path))}`",
        )


def _parse_password(settings: HostSettings, data: bytes) -> str:
    """Take the only line; nothing that is in the file may show in a message."""
    try:
        text = data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        text = ""
    if not text or not text.isprintable() or len(data) > PASSWORD_LIMIT:
        problem = f"{settings.password_file} is not one line of printable UTF-8 text"
        raise _mistake_in(settings, "password_file", problem)
    return text


def _check_files(settings: HostSettings) -> None:
    """Find mistakes before a run begins rather than when the host is first asked."""
    read_password(settings)
    for key, path in (
        ("ca_file", settings.ca_file),
        ("certificate_file", settings.certificate_file),
        ("certificate_key_file", settings.certificate_key_file),
    ):
        if path is not None:
            _check_pem(settings, key, path)


def _check_pem(settings: HostSettings, key: str, path: Path) -> None:
    try:
        with path.open("rb") as file:
            mode = _read_mode(file)
            text = file.read()
    except OSError as error:
        raise _mistake_in(settings, key, f"{path}: {error.strerror}") from error
    if b"-----BEGIN " not in text:
        raise _mistake_in(settings, key, f"{path} is not a PEM file")
    if b"ENCRYPTED" in text:
        problem = f"the key in {path} is encrypted, and nobody is asked for its passphrase"
        raise _mistake_in(settings, key, problem)
    if b"PRIVATE KEY-----" in text:
        _refuse_others(settings, key, path, mode)


def _mistake_in(settings: HostSettings, key: str, text: str) -> ConfigurationError:
    return ConfigurationError(f'{settings.file}: hosts."{settings.host}".{key}: {text}')
