# Remove one checkpoint; Hyper-V merges its disks afterwards, in the background.
# Asked: CheckpointId.
[CmdletBinding()]
param(
    [Parameter(Mandatory = $true)]
    [string] $Request
)
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$asked = Microsoft.PowerShell.Utility\ConvertFrom-Json -InputObject $Request
$checkpoint = Hyper-V\Get-VMSnapshot -Id $asked.CheckpointId
Hyper-V\Remove-VMSnapshot -VMSnapshot $checkpoint -Confirm:$false
Microsoft.PowerShell.Utility\ConvertTo-Json -InputObject @() -Depth 6 -Compress
