# Write a block at an offset and cut off what was behind it; done twice it is done once.
# Asked: Path; Offset in bytes; Data in Base64; Flush, whether to wait for the disk.
[CmdletBinding()]
param(
    [Parameter(Mandatory = $true)]
    [string] $Request
)
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$asked = Microsoft.PowerShell.Utility\ConvertFrom-Json -InputObject $Request
$data = [System.Convert]::FromBase64String($asked.Data)
$stream = [System.IO.FileStream]::new($asked.Path, [System.IO.FileMode]::OpenOrCreate, [System.IO.FileAccess]::Write, [System.IO.FileShare]::ReadWrite)
$stream.SetLength($asked.Offset)
$null = $stream.Seek($asked.Offset, [System.IO.SeekOrigin]::Begin)
$stream.Write($data, 0, $data.Length)
$stream.Flush($asked.Flush)
$answer = [pscustomobject]@{ Length = $stream.Length }
$stream.Dispose()
Microsoft.PowerShell.Utility\ConvertTo-Json -InputObject @($answer) -Depth 6 -Compress
