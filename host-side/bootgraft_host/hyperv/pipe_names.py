"""Named pipes and the pyserial URLs that lead to them.

- `hvpipe://NAME`: a pipe of this computer, which is the Hyper-V host;
- `hvrelay://HOST/NAME`: a pipe of a host, by way of a relay that runs on it.

HOST is the one of hyperv://HOST/VM, NAME is what follows `\\\\.\\pipe\\`; both percent-encoded.
"""

from urllib.parse import quote, unquote, urlsplit

PIPE_FOLDER = "\\\\.\\pipe\\"
NAME_LIMIT = 256 - len(PIPE_FOLDER)  # characters; CreateNamedPipe's limit is for the path


def pipe_path(name: str) -> str:
    """Return the path of a pipe of one's own computer; raises ValueError for a bad name."""
    if not name or "\\" in name or len(name) > NAME_LIMIT:
        raise ValueError(f"{name!r} is not the name of a named pipe")
    return PIPE_FOLDER + name


def pipe_url(pipe_name: str) -> str:
    """Return the URL of a pipe of this computer."""
    pipe_path(pipe_name)
    return "hvpipe://" + quote(pipe_name, safe="")


def relay_url(host: str, pipe_name: str) -> str:
    """Return the URL of a pipe of another computer."""
    pipe_path(pipe_name)
    return f"hvrelay://{quote(host, safe='')}/{quote(pipe_name, safe='')}"


def parse_pipe_url(url: str) -> str:
    """Return the name in `hvpipe://NAME`; raises ValueError."""
    parts = urlsplit(url)
    if parts.path or parts.query or parts.fragment:
        raise ValueError(f"{url!r} is not of the form hvpipe://NAME")
    name = unquote(parts.netloc)
    pipe_path(name)
    return name


def parse_relay_url(url: str) -> tuple[str, str]:
    """Return the host and the name in `hvrelay://HOST/NAME`; raises ValueError."""
    parts = urlsplit(url)
    if not parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"{url!r} is not of the form hvrelay://HOST/NAME")
    name = unquote(parts.path.removeprefix("/"))
    pipe_path(name)
    return unquote(parts.netloc), name
