# Connect to a named pipe of this host and keep all that comes from it in a temporary file.
# Reading never stops while the pipe is open: a client that does not read stalls the guest.
# The pipe is closed IdleMilliseconds after the last exchange, so that a lost caller keeps nobody
# out. The two files of one name are unbuffered (1), or else bytes would wait in memory.
# Asked: PipeName; ConnectMilliseconds; IdleMilliseconds.
[CmdletBinding()]
param(
    [Parameter(Mandatory = $true)]
    [string] $Request
)
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$asked = Microsoft.PowerShell.Utility\ConvertFrom-Json -InputObject $Request
$direction = [System.IO.Pipes.PipeDirection]::InOut
$options = [System.IO.Pipes.PipeOptions]::Asynchronous
$identity = [System.Security.Principal.TokenImpersonationLevel]::Identification
$pipe = [System.IO.Pipes.NamedPipeClientStream]::new('.', $asked.PipeName, $direction, $options, $identity)
$pipe.Connect([int] $asked.ConnectMilliseconds)
$watch = [System.Threading.CancellationTokenSource]::new()
$close = [System.Delegate]::CreateDelegate([System.Action], $pipe, 'Close')
$null = $watch.Token.Register($close)
$watch.CancelAfter([int] $asked.IdleMilliseconds)
$global:BootgraftRelay = [pscustomobject]@{
    Pipe = $pipe
    Watch = $watch
    Files = @()
    Source = $null
    Drain = $null
    Write = [System.Threading.Tasks.Task]::Delay(0)
    Written = 0
}
$folder = [System.IO.Path]::GetTempPath()
$path = [System.IO.Path]::Combine($folder, [System.IO.Path]::GetRandomFileName())
$mode = [System.IO.FileMode]::CreateNew
$access = [System.IO.FileAccess]::Write
$share = [System.IO.FileShare]::Read
$removal = [System.IO.FileOptions]::DeleteOnClose
$sink = [System.IO.FileStream]::new($path, $mode, $access, $share, 1, $removal)
$global:BootgraftRelay.Files = @($sink)
$mode = [System.IO.FileMode]::Open
$access = [System.IO.FileAccess]::Read
$share = [System.IO.FileShare] 'ReadWrite, Delete'
$source = [System.IO.FileStream]::new($path, $mode, $access, $share, 1)
$global:BootgraftRelay.Files = @($sink, $source)
$global:BootgraftRelay.Source = $source
$global:BootgraftRelay.Drain = $pipe.CopyToAsync($sink, 65536)
Microsoft.PowerShell.Utility\ConvertTo-Json -InputObject @() -Depth 6 -Compress
