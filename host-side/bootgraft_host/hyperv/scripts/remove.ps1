# Remove files, which need not exist, then folders, which must be empty.
# Asked: Files, Folders (paths).
[CmdletBinding()]
param(
    [Parameter(Mandatory = $true)]
    [string] $Request
)
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$asked = Microsoft.PowerShell.Utility\ConvertFrom-Json -InputObject $Request
foreach ($path in $asked.Files) {
    [System.IO.File]::Delete($path)
}
foreach ($path in $asked.Folders) {
    [System.IO.Directory]::Delete($path)
}
Microsoft.PowerShell.Utility\ConvertTo-Json -InputObject @() -Depth 6 -Compress
