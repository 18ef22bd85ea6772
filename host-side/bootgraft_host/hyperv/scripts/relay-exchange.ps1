# Hand over what came from the pipe since Offset, and start to write a block to it.
# An answer that was lost is asked for again: Offset is the caller's, and a block is written only
# after the block before it, so that it is never written twice.
# Asked: Offset; Limit; IdleMilliseconds; WriteMilliseconds; Write (After, Number, Data in Base64).
[CmdletBinding()]
param(
    [Parameter(Mandatory = $true)]
    [string] $Request
)
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$asked = Microsoft.PowerShell.Utility\ConvertFrom-Json -InputObject $Request
$relay = $global:BootgraftRelay
$relay.Watch.CancelAfter([int] $asked.IdleMilliseconds)
foreach ($block in $asked.Write) {
    if ($block.After -eq $relay.Written) {
        $relay.Written = $block.Number
        $bytes = [System.Convert]::FromBase64String($block.Data)
        $relay.Write = $relay.Pipe.WriteAsync($bytes, 0, $bytes.Length)
    }
}
$writes = [System.Threading.Tasks.Task[]] @($relay.Write)
$null = [System.Threading.Tasks.Task]::WaitAny($writes, [int] $asked.WriteMilliseconds)
# Asked before the reading: when the pipe had ended by then, the file holds its last byte.
$ended = $relay.Drain.IsCompleted
$buffer = [byte[]]::new($asked.Limit)
$null = $relay.Source.Seek($asked.Offset, [System.IO.SeekOrigin]::Begin)
$count = $relay.Source.Read($buffer, 0, $buffer.Length)
$answer = [pscustomobject]@{
    Data = [System.Convert]::ToBase64String($buffer, 0, $count)
    Ended = $ended
    Ending = "$($relay.Drain.Status)"
    Written = $relay.Written
    Writing = "$($relay.Write.Status)"
}
Microsoft.PowerShell.Utility\ConvertTo-Json -InputObject @($answer) -Depth 6 -Compress
