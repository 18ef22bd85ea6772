# Read how one virtual machine is just now.
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
$answer = [pscustomobject]@{
    State = "$($vm.State)"
    Heartbeat = "$($vm.Heartbeat)"
}
Microsoft.PowerShell.Utility\ConvertTo-Json -InputObject @($answer) -Depth 6 -Compress
