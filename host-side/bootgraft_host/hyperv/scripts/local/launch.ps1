# Run one script on this computer for a controller on it.
# In: -Script, the script's path; its request as ASCII on standard input.
# Out: one line on standard output, "bootgraft-answer " and, in Base64, a JSON document in UTF-8:
# what the console's code page does to other characters does not matter then. The document has
# Output, the texts that the script put out, and Errors, a list of one error at most.
param(
    [Parameter(Mandatory = $true)]
    [string] $Script
)
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$output = @()
$errors = @()
try {
    $request = [System.Console]::In.ReadToEnd()
    $output = @(& $Script -Request $request)
}
catch {
    $errors = @([pscustomobject]@{
        Message = "$_"
        FullyQualifiedErrorId = $_.FullyQualifiedErrorId
        Category = "$($_.CategoryInfo.Category)"
    })
}
$texts = foreach ($item in $output) { "$item" }
$answer = [pscustomobject]@{ Output = @($texts); Errors = $errors }
$json = Microsoft.PowerShell.Utility\ConvertTo-Json -InputObject $answer -Depth 3 -Compress
$bytes = [System.Text.Encoding]::UTF8.GetBytes($json)
[System.Console]::Out.WriteLine('bootgraft-answer ' + [System.Convert]::ToBase64String($bytes))
