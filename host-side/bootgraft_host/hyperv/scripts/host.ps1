# Say what this host is, and who we are on it.
# Asked: Drives (as in C:\), whose free space is to be read.
[CmdletBinding()]
param(
    [Parameter(Mandatory = $true)]
    [string] $Request
)
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$asked = Microsoft.PowerShell.Utility\ConvertFrom-Json -InputObject $Request
$identity = [System.Security.Principal.WindowsIdentity]::GetCurrent()
$groups = foreach ($group in $identity.Groups) { $group.Value }
$modules = foreach ($module in Microsoft.PowerShell.Core\Get-Module -ListAvailable -Name 'Hyper-V') { "$($module.Version)" }
$drives = foreach ($name in $asked.Drives) {
    $drive = [System.IO.DriveInfo]::new($name)
    [pscustomobject]@{ Name = $name; AvailableBytes = $drive.AvailableFreeSpace }
}
$answer = [pscustomobject]@{
    ComputerName = $env:COMPUTERNAME
    ProgramData = $env:ProgramData
    PowerShell = "$($PSVersionTable.PSVersion)"
    Windows = [System.Environment]::OSVersion.VersionString
    UtcNow = [System.DateTime]::UtcNow.ToString('o')
    User = $identity.Name
    UserSid = $identity.User.Value
    GroupSids = @($groups)
    HyperVModules = @($modules)
    Drives = @($drives)
}
Microsoft.PowerShell.Utility\ConvertTo-Json -InputObject @($answer) -Depth 6 -Compress
