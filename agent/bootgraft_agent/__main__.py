"""Runs the agent: `python3 -m bootgraft_agent`."""

import sys

from bootgraft_agent.cli import main

if __name__ == "__main__":
    sys.exit(main())
