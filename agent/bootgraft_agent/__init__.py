"""The program in the live system: finds the guest's disks, grafts its boot path, reports."""

__version__ = "0.1.0"
