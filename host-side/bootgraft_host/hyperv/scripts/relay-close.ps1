# Close the pipe of this session at once, and with the files what was kept.
# Asked: nothing.
[CmdletBinding()]
param(
    [Parameter(Mandatory = $true)]
    [string] $Request
)
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$asked = Microsoft.PowerShell.Utility\ConvertFrom-Json -InputObject $Request
$relay = $global:BootgraftRelay
$relay.Watch.Cancel()
foreach ($file in $relay.Files) {
    $file.Close()
}
Microsoft.PowerShell.Utility\ConvertTo-Json -InputObject @() -Depth 6 -Compress
