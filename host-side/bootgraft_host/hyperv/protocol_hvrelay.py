"""Serial ports behind a pipe on another Hyper-V host, for pyserial: `hvrelay://HOST/NAME`.

pyserial finds this module by its name through serial.protocol_handler_packages (see link.py).
"""

from bootgraft_host.hyperv.pipe_names import parse_relay_url
from bootgraft_host.hyperv.pipe_port import PipePort, PipeStream
from bootgraft_host.hyperv.relay import Relay
from bootgraft_host.hyperv.relay_stream import RelayStream
from bootgraft_host.hyperv.runner import Runner
from bootgraft_host.machine import MachineError


def open_runner(host: str) -> Runner:
    """Give a session on a host for one relay; tests put another function in its place."""
    from bootgraft_host.hyperv import hosts  # noqa: PLC0415  # pypsrp, for those who use it

    return hosts.open_runner(host)


class Serial(PipePort):
    """A port of pyserial's kind by way of a relay."""

    def connect(self, url: str) -> PipeStream:
        """Have a relay on the host connect to the pipe that the URL names."""
        host, name = parse_relay_url(url)
        if host == ".":
            raise ValueError("a pipe of this computer is reached by hvpipe://")
        try:
            relay = Relay(open_runner(host), name)
        except MachineError as error:  # hosts.toml, or a file that it names
            raise ConnectionError(str(error)) from error
        try:
            relay.open()
        except MachineError as error:
            relay.abandon()
            raise ConnectionError(str(error)) from error
        return RelayStream(relay)
