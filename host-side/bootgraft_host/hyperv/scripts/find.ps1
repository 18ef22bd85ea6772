# List the virtual machines of this host; the caller decides which one is meant.
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
$found = foreach ($vm in Hyper-V\Get-VM) {
    [pscustomobject]@{
        Id = "$($vm.Id)"
        Name = $vm.Name
        Generation = $vm.Generation
        State = "$($vm.State)"
    }
}
Microsoft.PowerShell.Utility\ConvertTo-Json -InputObject @($found) -Depth 6 -Compress
