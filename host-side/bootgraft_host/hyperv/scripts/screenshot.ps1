# Take a picture of a running virtual machine's screen: raw RGB565, scaled to Width x Height.
# Asked: SettingsFilter, HeadFilter (WQL, which name one machine by its Id); Width; Height.
[CmdletBinding()]
param(
    [Parameter(Mandatory = $true)]
    [string] $Request
)
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$asked = Microsoft.PowerShell.Utility\ConvertFrom-Json -InputObject $Request
$heads = foreach ($head in CimCmdlets\Get-CimInstance -Namespace 'root/virtualization/v2' -ClassName 'Msvm_VideoHead' -Filter $asked.HeadFilter) {
    [pscustomobject]@{
        Width = $head.CurrentHorizontalResolution
        Height = $head.CurrentVerticalResolution
    }
}
$service = CimCmdlets\Get-CimInstance -Namespace 'root/virtualization/v2' -ClassName 'Msvm_VirtualSystemManagementService'
$pictures = foreach ($settings in CimCmdlets\Get-CimInstance -Namespace 'root/virtualization/v2' -ClassName 'Msvm_VirtualSystemSettingData' -Filter $asked.SettingsFilter) {
    $arguments = @{
        TargetSystem = $settings
        WidthPixels = [uint16] $asked.Width
        HeightPixels = [uint16] $asked.Height
    }
    $result = CimCmdlets\Invoke-CimMethod -InputObject $service -MethodName 'GetVirtualSystemThumbnailImage' -Arguments $arguments -Confirm:$false
    $data = ''
    if ($result.ImageData) {
        $data = [System.Convert]::ToBase64String($result.ImageData)
    }
    [pscustomobject]@{ ReturnValue = $result.ReturnValue; Data = $data }
}
$answer = [pscustomobject]@{ Heads = @($heads); Pictures = @($pictures) }
Microsoft.PowerShell.Utility\ConvertTo-Json -InputObject @($answer) -Depth 6 -Compress
