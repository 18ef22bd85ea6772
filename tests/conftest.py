"""What holds for all tests."""

from hypothesis import settings

# How long an example takes tells of the machine, not of the code; pytest-timeout ends what hangs.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
