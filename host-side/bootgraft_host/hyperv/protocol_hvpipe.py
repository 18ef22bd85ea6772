"""Serial ports behind a pipe of this Windows computer, for pyserial: `hvpipe://NAME`.

pyserial finds this module by its name through serial.protocol_handler_packages (see link.py).
Never tried on Windows: the rules are tested over a simulated pipe, the calls over a stand-in.
"""

from bootgraft_host.hyperv.named_pipe import PipeSystem, connect_pipe
from bootgraft_host.hyperv.pipe_names import parse_pipe_url
from bootgraft_host.hyperv.pipe_port import PipePort, PipeStream
from bootgraft_host.hyperv.windows_pipes import this_computer


def open_system() -> PipeSystem:
    """Give this computer's pipes; tests put another function in its place."""
    return this_computer()


class Serial(PipePort):
    """A port of pyserial's kind over a named pipe."""

    def connect(self, url: str) -> PipeStream:
        """Connect to the pipe that the URL names."""
        return connect_pipe(open_system(), parse_pipe_url(url))
