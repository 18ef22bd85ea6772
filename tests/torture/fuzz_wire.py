"""Fuzz the protocol, guided by coverage: `python -m torture.fuzz_wire CORPUS -max_total_time=600`.

Needs atheris, which nothing else here does: `.venv/bin/pip install atheris`. The arguments are
libFuzzer's. The corpus that is kept (tests/data/wire-corpus) is tried again by tests/agent.
"""

import sys

import atheris  # type: ignore[import-not-found,unused-ignore]

with atheris.instrument_imports(include=["bootgraft_agent.wire", "json"]):
    from torture.wire_input import try_input


def main() -> None:
    """Run libFuzzer, which ends the process."""
    atheris.Setup(sys.argv, try_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
