# Replace the notes of a virtual machine, which hold the mark of a run at work, unless somebody has
# changed them since they were read.
# Asked: Id; Before, the notes as they were read; Notes.
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
$found = "$($vm.Notes)"
if ($asked.Before -eq $found) {
    Hyper-V\Set-VM -VM $vm -Notes $asked.Notes -Confirm:$false
}
Microsoft.PowerShell.Utility\ConvertTo-Json -InputObject @() -Depth 6 -Compress
