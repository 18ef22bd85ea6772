# Make a checkpoint of a virtual machine.
# Asked: Id; Name.
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
$made = Hyper-V\Checkpoint-VM -VM $vm -SnapshotName $asked.Name -Passthru -Confirm:$false
$answer = [pscustomobject]@{ Id = "$($made.Id)"; Name = $made.Name }
Microsoft.PowerShell.Utility\ConvertTo-Json -InputObject @($answer) -Depth 6 -Compress
