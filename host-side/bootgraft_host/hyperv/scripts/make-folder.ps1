# Make a folder that has its owner and permissions from its first instant on.
# A folder that exists stays as it is: the caller reads it back and judges.
# Asked: Path; Sddl.
[CmdletBinding()]
param(
    [Parameter(Mandatory = $true)]
    [string] $Request
)
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$asked = Microsoft.PowerShell.Utility\ConvertFrom-Json -InputObject $Request
$security = [System.Security.AccessControl.DirectorySecurity]::new()
$security.SetSecurityDescriptorSddlForm($asked.Sddl)
$null = [System.IO.Directory]::CreateDirectory($asked.Path, $security)
Microsoft.PowerShell.Utility\ConvertTo-Json -InputObject @() -Depth 6 -Compress
