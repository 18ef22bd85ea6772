# Look at files and folders of the host.
# Asked: Check (paths that need not exist), Measure (files), List (folders whose files to name).
[CmdletBinding()]
param(
    [Parameter(Mandatory = $true)]
    [string] $Request
)
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$asked = Microsoft.PowerShell.Utility\ConvertFrom-Json -InputObject $Request
$checked = foreach ($path in $asked.Check) {
    [pscustomobject]@{
        Path = $path
        IsFile = [System.IO.File]::Exists($path)
        IsFolder = [System.IO.Directory]::Exists($path)
    }
}
$measured = foreach ($path in $asked.Measure) {
    $file = [System.IO.FileInfo]::new($path)
    [pscustomobject]@{ Path = $path; Length = $file.Length }
}
$listed = foreach ($path in $asked.List) {
    $folder = [System.IO.DirectoryInfo]::new($path)
    foreach ($file in $folder.GetFiles()) {
        [pscustomobject]@{ Folder = $path; Name = $file.Name; Length = $file.Length }
    }
}
$answer = [pscustomobject]@{
    Checked = @($checked)
    Measured = @($measured)
    Listed = @($listed)
}
Microsoft.PowerShell.Utility\ConvertTo-Json -InputObject @($answer) -Depth 6 -Compress
