"""Secrets in a guest's text are masked wherever it is shown or sent. Pure.

Rather too much is masked than too little: a value ends at white space (a password may hold a
comma, a slash or an @) or, once quoted, at its closing quote.
"""

import re
from collections.abc import Iterable, Iterator

from bootgraft_agent import grub
from bootgraft_agent.text import printable

_KEY = re.compile(rb"(?<![\w.-])(?P<key>[\w.-]+)=")
_SECRET_KEY = re.compile(
    rb"pass|pw|secret|psk|cred|token|user|key(?!map|table|board|code)", re.IGNORECASE
)
_VALUE = re.compile(rb"(?:\"[^\"\n]*\"?|'[^'\n]*'?|[^\s\"'])*")
_QUOTED_REST = re.compile(rb"[^\"\n]*")
# A word with an @, up to the last one: user:password@host, with or without a scheme.
_LOGIN = re.compile(rb"(?<!\S)\S+@(?=(?P<rest>\S*))")
# But a path in a volume, hda2:/etc/…/getty@tty1.service, is systemd's name of a unit.
_VOLUME_PATH = re.compile(rb"[^\s:=]*:/[^\s:/][^\s:]*@")
_UNIT = re.compile(rb"[\w.\\-]*\.(?:service|socket|timer|target|path|mount|swap|slice)(?![\w.-])")
# A password's hash as crypt(3) writes it, and the second field of a line of /etc/shadow.
_HASH = re.compile(rb"\$(?:1|2[abxy]?|3|5|6|7|y|gy|md5|sha1)\$[./A-Za-z0-9$,=+-]+")
_SHADOW = re.compile(rb"(?m)^(?P<user>[+-]?[^\s:]{1,256}:)[^\s:]+(?=:\d*:\d*:\d*:\d*:\d*:\d*:)")
_LOGIN_START = re.compile(rb"//|#|iscsi:", re.IGNORECASE)


def mask_text(text: str) -> str:
    """Mask the secrets in a message that may quote a guest's text."""
    masked = mask_secrets(text.encode("utf-8", "surrogatepass"))
    return masked.decode("utf-8", "surrogatepass")


def mask_given(text: str, secrets: Iterable[str]) -> str:
    """Mask secrets that are known, as they are and as files and messages quote them."""
    pieces = {piece.strip() for secret in secrets for piece in secret.splitlines()}
    forms = {form for piece in pieces for form in _forms(piece)}
    for form in sorted(forms - {""}, key=lambda each: (-len(each), each)):
        text = text.replace(form, grub.MASK.decode())
    return text


def _forms(piece: str) -> Iterator[str]:
    """Give a piece of a secret as it is, and in quotes, an fstab, a pattern, a message."""
    for form in (
        piece,
        re.sub(r"([$`\"\\])", r"\\\1", piece),
        piece.replace("\\", "\\\\"),
        re.sub(r"[ \t\\#]", lambda match: f"\\{ord(match[0]):03o}", piece),
        re.sub(r"([!-/:-@\[-`{-~ \t])", r"\\\1", piece),
    ):
        shown = form.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        for each in (form, shown):
            yield from (each, printable(each), repr(each)[1:-1])


def mask_secrets(content: bytes) -> bytes:
    """Mask passwords of menus, and names and passwords in arguments, mount options and URLs.

    Passwords' hashes, too. Comments are no exception.
    """
    masked = _LOGIN.sub(_masked_login, _mask_values(grub.mask_passwords(content)))
    return _SHADOW.sub(rb"\g<user>" + grub.MASK, _HASH.sub(grub.MASK, masked))


def _mask_values(content: bytes) -> bytes:
    """Mask what is assigned to a key that sounds like a secret's."""
    parts = []
    done = 0
    for match in _KEY.finditer(content):
        if match.start() >= done and _SECRET_KEY.search(match["key"]):
            parts += [content[done : match.end()], grub.MASK]
            done = _value_end(content, match)
    return b"".join((*parts, content[done:]))


def _value_end(content: bytes, key: re.Match[bytes]) -> int:
    """Give where a value ends; a quote may have been opened before its key."""
    line = content.rfind(b"\n", 0, key.start()) + 1
    in_quotes = content.count(b'"', line, key.start()) % 2
    value = (_QUOTED_REST if in_quotes else _VALUE).match(content, key.end())
    return value.end() if value else key.end()


def _masked_login(match: re.Match[bytes]) -> bytes:
    word = match[0]
    start = _LOGIN_START.search(word)
    if start is None and b":" not in word:
        return word
    if start is None and _VOLUME_PATH.fullmatch(word) and _UNIT.match(match["rest"]):
        return word
    kept = start.end() if start else word.find(b"=") + 1
    return word[:kept] + grub.MASK + b"@"
