# Compute the SHA-256 of a file.
# Asked: Path. This class also works where only FIPS-validated ones are allowed.
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
$algorithm = [System.Security.Cryptography.SHA256CryptoServiceProvider]::new()
$digest = $algorithm.ComputeHash($stream)
$answer = [pscustomobject]@{ Sha256 = [System.Convert]::ToBase64String($digest) }
$stream.Dispose()
Microsoft.PowerShell.Utility\ConvertTo-Json -InputObject @($answer) -Depth 6 -Compress
