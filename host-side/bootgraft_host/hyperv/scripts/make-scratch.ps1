# Make a virtual machine for trying things out: generation 1, no disk, one DVD drive.
# Asked: Name; Notes; MemoryBytes.
[CmdletBinding()]
param(
    [Parameter(Mandatory = $true)]
    [string] $Request
)
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$asked = Microsoft.PowerShell.Utility\ConvertFrom-Json -InputObject $Request
$vm = Hyper-V\New-VM -Name $asked.Name -Generation 1 -NoVHD -MemoryStartupBytes $asked.MemoryBytes -Confirm:$false
Hyper-V\Set-VM -VM $vm -Notes $asked.Notes -Confirm:$false
$answer = [pscustomobject]@{ Id = "$($vm.Id)" }
Microsoft.PowerShell.Utility\ConvertTo-Json -InputObject @($answer) -Depth 6 -Compress
