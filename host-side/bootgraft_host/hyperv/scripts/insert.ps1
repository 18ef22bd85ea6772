# Put an ISO into a DVD drive of a virtual machine, also while it runs; Path null ejects.
# Asked: Id; ControllerNumber; ControllerLocation; Path.
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
$drive = Hyper-V\Get-VMDvdDrive -VM $vm -ControllerNumber $asked.ControllerNumber -ControllerLocation $asked.ControllerLocation
Hyper-V\Set-VMDvdDrive -VMDvdDrive $drive -Path $asked.Path -Confirm:$false
Microsoft.PowerShell.Utility\ConvertTo-Json -InputObject @() -Depth 6 -Compress
