# Cut the power of a virtual machine.
# Asked: Id.
[CmdletBinding()]
param(
    [Parameter(Mandatory = $true)]
    [string] $Request
)
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$asked = Microsoft.PowerShell.Utility\ConvertFrom-Json -InputObject $Request
$vm = Hyper-V\Get-VM -Id $asked.Id
Hyper-V\Stop-VM -VM $vm -TurnOff -Confirm:$false
Microsoft.PowerShell.Utility\ConvertTo-Json -InputObject @() -Depth 6 -Compress
