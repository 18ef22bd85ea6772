"""Faults by the thousand, from one seed: `make torture`."""
