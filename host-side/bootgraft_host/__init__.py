"""The controller: prepares a machine, drives the agent in it, restores it and proves its boot."""
