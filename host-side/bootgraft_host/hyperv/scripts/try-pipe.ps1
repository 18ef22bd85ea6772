# Make a named pipe, connect to it as to a machine's COM port, and send something through.
# Asked: Name; Data in Base64, a few bytes.
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
$server = [System.IO.Pipes.NamedPipeServerStream]::new($asked.Name, [System.IO.Pipes.PipeDirection]::InOut, 1, [System.IO.Pipes.PipeTransmissionMode]::Byte, [System.IO.Pipes.PipeOptions]::Asynchronous, 4096, 4096)
$client = [System.IO.Pipes.NamedPipeClientStream]::new('.', $asked.Name, [System.IO.Pipes.PipeDirection]::InOut, [System.IO.Pipes.PipeOptions]::Asynchronous)
$client.Connect(5000)
$server.WaitForConnection()
$client.Write($data, 0, $data.Length)
$buffer = [byte[]]::new($data.Length)
$count = $server.Read($buffer, 0, $buffer.Length)
$answer = [pscustomobject]@{ Data = [System.Convert]::ToBase64String($buffer, 0, $count) }
# The server hears that the client has gone: nothing more comes.
$client.Dispose()
$null = $server.Read($buffer, 0, $buffer.Length)
$server.Dispose()
Microsoft.PowerShell.Utility\ConvertTo-Json -InputObject @($answer) -Depth 6 -Compress
