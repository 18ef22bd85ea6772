# Open a named pipe of this or another computer, read for a while, and let go of it.
# Asked: Server ("." is this computer without the network); Name; Milliseconds, for each of the two.
# What did not come is zero in Data.
[CmdletBinding()]
param(
    [Parameter(Mandatory = $true)]
    [string] $Request
)
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$asked = Microsoft.PowerShell.Utility\ConvertFrom-Json -InputObject $Request
$client = [System.IO.Pipes.NamedPipeClientStream]::new($asked.Server, $asked.Name, [System.IO.Pipes.PipeDirection]::InOut, [System.IO.Pipes.PipeOptions]::Asynchronous)
$client.Connect($asked.Milliseconds)
$buffer = [byte[]]::new(512)
$reading = $client.ReadAsync($buffer, 0, 512)
$came = $reading.Wait($asked.Milliseconds)
$answer = [pscustomobject]@{ Came = $came; Data = [System.Convert]::ToBase64String($buffer) }
$client.Dispose()
Microsoft.PowerShell.Utility\ConvertTo-Json -InputObject @($answer) -Depth 6 -Compress
