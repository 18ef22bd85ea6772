# Read who owns a folder, who may do what with it, and whether it is a link to another one.
# Asked: Path.
[CmdletBinding()]
param(
    [Parameter(Mandatory = $true)]
    [string] $Request
)
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$asked = Microsoft.PowerShell.Utility\ConvertFrom-Json -InputObject $Request
$acl = Microsoft.PowerShell.Security\Get-Acl -LiteralPath $asked.Path
$attributes = [System.IO.File]::GetAttributes($asked.Path)
$answer = [pscustomobject]@{
    Attributes = "$attributes"
    Sddl = $acl.Sddl
}
Microsoft.PowerShell.Utility\ConvertTo-Json -InputObject @($answer) -Depth 6 -Compress
