"""A modelled Hyper-V host and what its scripts run on; nothing of Microsoft's is in it."""
