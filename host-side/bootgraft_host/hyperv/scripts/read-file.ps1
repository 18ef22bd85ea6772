# Read a part of a file, which somebody else may have open.
# Asked: Path; Offset and Count in bytes. Data is shorter at the end of the file.
[CmdletBinding()]
param(
    [Parameter(Mandatory = $true)]
    [string] $Request
)
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$asked = Microsoft.PowerShell.Utility\ConvertFrom-Json -InputObject $Request
$stream = [System.IO.FileStream]::new($asked.Path, [System.IO.FileMode]::Open, [System.IO.FileAccess]::Read, [System.IO.FileShare]::ReadWrite)
$null = $stream.Seek($asked.Offset, [System.IO.SeekOrigin]::Begin)
$buffer = [byte[]]::new($asked.Count)
$count = $stream.Read($buffer, 0, $asked.Count)
$answer = [pscustomobject]@{ Data = [System.Convert]::ToBase64String($buffer, 0, $count) }
$stream.Dispose()
Microsoft.PowerShell.Utility\ConvertTo-Json -InputObject @($answer) -Depth 6 -Compress
