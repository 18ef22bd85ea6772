"""Machines on a Hyper-V host, reached by Windows PowerShell on it or by WinRM."""
