"""What a Hyper-V host lacks for bootgraft, one check after the other, and how to mend it.

Nothing on the host is changed but for a folder and a pipe that are made and removed again. Each
command is typed on the host, in a Windows PowerShell of an administrator, unless it says otherwise.
"""

import base64
import secrets
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from bootgraft_host.hyperv.host_files import (
    HostFacts,
    ask,
    drive_of,
    hash_file,
    is_folder,
    read_host,
    remove_paths,
    write_block,
)
from bootgraft_host.hyperv.permissions import ADMINISTRATORS
from bootgraft_host.hyperv.runner import (
    AccessError,
    HostError,
    Runner,
    ScriptError,
    UnreachableError,
)
from bootgraft_host.hyperv.upload_folder import find_base, find_folder, prepare_folder
from bootgraft_host.hyperv.vm import find_vms

Verdict = Literal["ok", "wrong", "not known"]

HYPERV_ADMINISTRATORS = "S-1-5-32-578"
LOCAL_ACCOUNTS = "S-1-5-113"  # whoever is logged on with an account of the host's own
MIN_POWERSHELL = (5, 1)
MIN_FREE = 1 << 30  # bytes; the live ISO and a payload ISO take a part of it
MAX_CLOCK_DIFFERENCE = 300.0  # seconds; beyond it Kerberos refuses tickets

AS_ADMINISTRATOR = "Run bootgraft in a Windows PowerShell that was opened by Run as administrator."

TOPICS = (
    *("PowerShell", "Hyper-V module", "rights", "virtual machines", "clock"),
    *("upload folder", "free space", "named pipes"),
)


@dataclass(frozen=True, slots=True)
class Check:
    """One check; `mend` are sentences and commands that put right what is wrong."""

    topic: str
    verdict: Verdict
    text: str
    mend: tuple[str, ...] = ()


def examine_host(runner: Runner, base: str | None) -> Iterator[Check]:
    """Go through all checks; `base` is the host's upload_folder, if it has one."""
    asked = datetime.now(UTC)
    try:
        facts = read_host(runner)
    except HostError as error:
        yield _explain_connection(runner, error)
        for topic in TOPICS:
            yield Check(topic, "not known", "the host could not be asked")
        return
    answered = datetime.now(UTC)
    yield Check("connection", "ok", f"{facts.computer_name}, {facts.windows}, as {facts.user}")
    yield _check_powershell(facts)
    yield _check_module(facts)
    yield _check_rights(facts, runner.host)
    yield _check_machines(runner)
    yield _check_clock(facts, asked, answered)
    yield _check_folder(runner, base)
    yield _check_space(runner, base)
    yield _check_pipes(runner)


# The connection.


def _explain_connection(runner: Runner, error: HostError) -> Check:
    if isinstance(error, AccessError):
        return Check("connection", "wrong", str(error), _mend_access(runner.host))
    if isinstance(error, UnreachableError):
        return Check("connection", "wrong", str(error), _mend_reach(runner.host))
    if isinstance(error, ScriptError) and "ConstrainedLanguage" in error.error_id:
        return Check(
            "connection",
            "wrong",
            "PowerShell's language is constrained on this host: scripts may not use .NET's classes",
            (
                "Exempt administrators' remote sessions from the AppLocker or App Control policy"
                " that constrains them; $ExecutionContext.SessionState.LanguageMode tells.",
            ),
        )
    return Check("connection", "wrong", str(error), _mend_scripts(runner.host))


def _mend_reach(host: str) -> tuple[str, ...]:
    if host == ".":
        return (AS_ADMINISTRATOR,)
    return (
        "Enable-PSRemoting -Force",
        "For TLS, a certificate that names the host, a listener, and a way through the firewall:",
        f"$certificate = New-SelfSignedCertificate -DnsName '{_quoted(host)}'"
        " -CertStoreLocation Cert:\\LocalMachine\\My",
        "New-Item -Path WSMan:\\localhost\\Listener -Transport HTTPS -Address *"
        " -CertificateThumbPrint $certificate.Thumbprint -Force",
        "New-NetFirewallRule -DisplayName 'WinRM over TLS' -Direction Inbound -Protocol TCP"
        " -LocalPort 5986 -Action Allow",
        "Export-Certificate -Cert $certificate -FilePath host.cer; certutil -encode host.cer"
        " host.pem",
        f'Copy host.pem here and name it as ca_file in [hosts."{host}"] of hosts.toml.',
    )


def _mend_scripts(host: str) -> tuple[str, ...]:
    """Advise where PowerShell is there, and our first script does not do what it should."""
    if host == ".":
        return (
            "Get-ExecutionPolicy -List",
            "Where MachinePolicy or UserPolicy forbids scripts, run bootgraft on another computer:"
            " there, hyperv://HOST gives scripts to this one as text.",
        )
    return (
        "Get-WinEvent -LogName Microsoft-Windows-WinRM/Operational -MaxEvents 20",
        "Get-PSSessionConfiguration -Name Microsoft.PowerShell",
    )


def _mend_access(host: str) -> tuple[str, ...]:
    if host == ".":
        return (AS_ADMINISTRATOR,)
    return (
        f'Name a user and a password_file in [hosts."{host}"] of hosts.toml (here), or get a'
        " Kerberos ticket: kinit USER@REALM",
        "Add-LocalGroupMember -SID S-1-5-32-544 -Member 'DOMAIN\\USER'",
    )


def _quoted(text: str) -> str:
    """Give a text as it stands between single quotes of PowerShell."""
    return text.replace("'", "''")


# What the host says of itself.


def _check_powershell(facts: HostFacts) -> Check:
    if _version(facts.powershell) >= MIN_POWERSHELL:
        return Check("PowerShell", "ok", facts.powershell)
    return Check(
        "PowerShell",
        "wrong",
        f"{facts.powershell}; Windows PowerShell 5.1 is needed",
        ("Install Windows Management Framework 5.1.",),
    )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdecimal())


def _check_module(facts: HostFacts) -> Check:
    if facts.hyperv_modules:
        return Check("Hyper-V module", "ok", ", ".join(facts.hyperv_modules))
    return Check(
        "Hyper-V module",
        "wrong",
        "PowerShell has no module Hyper-V",
        (
            "On Windows Server: Install-WindowsFeature -Name Hyper-V-PowerShell",
            "On Windows 10 and 11: Enable-WindowsOptionalFeature -Online -FeatureName"
            " Microsoft-Hyper-V-Management-PowerShell",
        ),
    )


def _check_rights(facts: HostFacts, host: str) -> Check:
    if ADMINISTRATORS in facts.group_sids:
        return Check("rights", "ok", f"{facts.user} is an administrator")
    mend = [f"Add-LocalGroupMember -SID {ADMINISTRATORS} -Member '{_quoted(facts.user)}'"]
    if host == ".":  # where an administrator's programs have the rights only when told so
        mend.insert(0, f"{AS_ADMINISTRATOR} Where {facts.user} is none yet:")
    elif LOCAL_ACCOUNTS in facts.group_sids:
        mend += [
            "An administrator's local account has no administrator's rights over the network"
            " unless this is set:",
            "New-ItemProperty -Path HKLM:\\SOFTWARE\\Microsoft\\Windows\\CurrentVersion\\Policies"
            "\\System -Name LocalAccountTokenFilterPolicy -Value 1 -PropertyType DWord -Force",
        ]
    text = f"{facts.user} is no administrator"
    if HYPERV_ADMINISTRATORS in facts.group_sids:
        text += (
            "; as one of the Hyper-V administrators alone you can look at machines and change them,"
            " but --upload cannot make its folder, and the pipe of COM1 may stay closed"
        )
    return Check("rights", "wrong", text, tuple(mend))


def _check_machines(runner: Runner) -> Check:
    try:
        count = len(find_vms(runner))
    except HostError as error:
        return Check(
            "virtual machines",
            "wrong",
            str(error),
            ("Start-Service -Name vmms", "Get-Service -Name vmms must say Running."),
        )
    return Check("virtual machines", "ok", f"{count} can be seen")


def _check_clock(facts: HostFacts, asked: datetime, answered: datetime) -> Check:
    here = asked + (answered - asked) / 2
    difference = (facts.utc_now - here).total_seconds()
    text = f"{abs(difference):.0f} s {'ahead of' if difference > 0 else 'behind'} ours"
    if abs(difference) <= MAX_CLOCK_DIFFERENCE:
        return Check("clock", "ok", text)
    return Check("clock", "wrong", text, ("w32tm /resync", "Or set the clock of this computer."))


# What is tried.


def _check_folder(runner: Runner, base: str | None) -> Check:
    try:
        path = _try_folder(runner, base)
    except HostError as error:
        return Check(
            "upload folder",
            "wrong",
            str(error),
            (f'Name another upload_folder in [hosts."{runner.host}"] of hosts.toml (here).',),
        )
    return Check("upload folder", "ok", f"{path} takes a folder for a machine, with its rights")


def _try_folder(runner: Runner, base: str | None) -> str:
    """Make a folder as for a machine, a file in it, and remove both; gives the one above."""
    above = find_base(runner, base)
    was_there = is_folder(runner, above)
    vm_id = str(uuid.uuid4())
    folder = find_folder(runner, above, vm_id)
    path = f"{folder}\\bootgraft-doctor.part"
    data = secrets.token_bytes(1024)
    try:
        prepare_folder(runner, above, vm_id)
        write_block(runner, path, 0, data, flush=True)
        hash_file(runner, path, len(data))
    finally:
        if is_folder(runner, folder):
            remove_paths(runner, [path], [folder])
        if not was_there and is_folder(runner, above):
            with suppress(ScriptError):  # somebody else uses it by now
                remove_paths(runner, [], [above])
    return above


def _check_space(runner: Runner, base: str | None) -> Check:
    try:
        path = find_base(runner, base)
        drive = drive_of(path)
        if drive is None:
            return Check("free space", "not known", f"{path} is on no drive with a letter")
        free = read_host(runner, [drive]).free[drive]
    except HostError as error:
        return Check("free space", "not known", str(error))
    text = f"{free / 1e9:,.1f} GB on {drive}"
    if free >= MIN_FREE:
        return Check("free space", "ok", text)
    return Check(
        "free space",
        "wrong",
        text,
        (f'Make room, or name another upload_folder in [hosts."{runner.host}"] of hosts.toml.',),
    )


def _check_pipes(runner: Runner) -> Check:
    data = secrets.token_bytes(32)
    asked = {
        "Name": f"bootgraft-{secrets.token_hex(16)}",
        "Data": base64.b64encode(data).decode("ascii"),
    }
    try:
        came = ask(runner, "try-pipe", asked).data("Data")
    except HostError as error:
        return Check(
            "named pipes",
            "wrong",
            str(error),
            ("The user must be an administrator of the host: see rights.",),
        )
    if came != data:
        return Check("named pipes", "wrong", "what was sent through a pipe came out different")
    return Check("named pipes", "ok", "a pipe of our own takes a client, and bytes go through")
