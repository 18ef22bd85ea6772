# Describe one virtual machine: all that a run may change, and what preflight asks about.
# Asked: Id; WithBios, true for generation 1 alone, as Get-VMBios fails on generation 2.
[CmdletBinding()]
param(
    [Parameter(Mandatory = $true)]
    [string] $Request
)
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$asked = Microsoft.PowerShell.Utility\ConvertFrom-Json -InputObject $Request
$vm = Hyper-V\Get-VM -Id $asked.Id
# What older hosts lack is read through Select-Object, which gives $null for it.
$optional = Microsoft.PowerShell.Utility\Select-Object -InputObject $vm -Property @(
    'AutomaticCheckpointsEnabled', 'CheckpointType', 'IsClustered', 'ReplicationState'
)
$bios = @()
if ($asked.WithBios) {
    $read = Hyper-V\Get-VMBios -VM $vm
    $order = foreach ($device in $read.StartupOrder) { "$device" }
    $bios = @([pscustomobject]@{ StartupOrder = @($order); NumLockEnabled = $read.NumLockEnabled })
}
$dvdDrives = foreach ($drive in Hyper-V\Get-VMDvdDrive -VM $vm) {
    [pscustomobject]@{
        ControllerType = "$($drive.ControllerType)"
        ControllerNumber = $drive.ControllerNumber
        ControllerLocation = $drive.ControllerLocation
        DvdMediaType = "$($drive.DvdMediaType)"
        Path = $drive.Path
        PoolName = $drive.PoolName
    }
}
$hardDrives = foreach ($drive in Hyper-V\Get-VMHardDiskDrive -VM $vm) {
    [pscustomobject]@{
        ControllerType = "$($drive.ControllerType)"
        ControllerNumber = $drive.ControllerNumber
        ControllerLocation = $drive.ControllerLocation
        Path = $drive.Path
    }
}
$comPorts = foreach ($number in 1, 2) {
    $port = Hyper-V\Get-VMComPort -VM $vm -Number $number
    $mode = Microsoft.PowerShell.Utility\Select-Object -InputObject $port -Property 'DebuggerMode'
    [pscustomobject]@{
        Number = $number
        Path = $port.Path
        DebuggerMode = "$($mode.DebuggerMode)"
    }
}
$adapters = foreach ($adapter in Hyper-V\Get-VMNetworkAdapter -VM $vm) {
    $more = Microsoft.PowerShell.Utility\Select-Object -InputObject $adapter -Property @(
        'AclList', 'AllowTeaming', 'BandwidthSetting', 'ClusterMonitored', 'CurrentIsolationMode'
        'DeviceNaming', 'DynamicIPAddressLimit', 'ExtendedAclList', 'IovWeight', 'PoolName'
        'RoutingDomainList', 'StormLimit', 'TestReplicaPoolName', 'TestReplicaSwitchName'
        'VirtualSubnetId', 'VmqWeight'
    )
    # How many there are is all that is asked of these.
    $acls = foreach ($acl in $more.AclList) { 'ACL' }
    $extendedAcls = foreach ($acl in $more.ExtendedAclList) { 'ACL' }
    $routingDomains = foreach ($domain in $more.RoutingDomainList) { 'domain' }
    $bandwidth = foreach ($setting in $more.BandwidthSetting) {
        [pscustomobject]@{
            MaximumBandwidth = $setting.MaximumBandwidth
            MinimumBandwidthAbsolute = $setting.MinimumBandwidthAbsolute
            MinimumBandwidthWeight = $setting.MinimumBandwidthWeight
        }
    }
    $vlan = foreach ($setting in Hyper-V\Get-VMNetworkAdapterVlan -VMNetworkAdapter $adapter) {
        [pscustomobject]@{
            OperationMode = "$($setting.OperationMode)"
            AccessVlanId = $setting.AccessVlanId
            NativeVlanId = $setting.NativeVlanId
            AllowedVlanIdList = $setting.AllowedVlanIdListString
            PrivateVlanMode = "$($setting.PrivateVlanMode)"
            PrimaryVlanId = $setting.PrimaryVlanId
            SecondaryVlanId = $setting.SecondaryVlanId
            SecondaryVlanIdList = $setting.SecondaryVlanIdListString
        }
    }
    [pscustomobject]@{
        Id = $adapter.Id
        Name = $adapter.Name
        IsLegacy = $adapter.IsLegacy
        SwitchName = $adapter.SwitchName
        MacAddress = $adapter.MacAddress
        DynamicMacAddressEnabled = $adapter.DynamicMacAddressEnabled
        MacAddressSpoofing = "$($adapter.MacAddressSpoofing)"
        DhcpGuard = "$($adapter.DhcpGuard)"
        RouterGuard = "$($adapter.RouterGuard)"
        PortMirroring = "$($adapter.PortMirroringMode)"
        IeeePriorityTag = "$($adapter.IeeePriorityTag)"
        AllowTeaming = "$($more.AllowTeaming)"
        Acls = @($acls)
        ExtendedAcls = @($extendedAcls)
        RoutingDomains = @($routingDomains)
        IsolationMode = "$($more.CurrentIsolationMode)"
        VirtualSubnetId = $more.VirtualSubnetId
        ClusterMonitored = $more.ClusterMonitored
        DeviceNaming = "$($more.DeviceNaming)"
        DynamicIpAddressLimit = $more.DynamicIPAddressLimit
        IovWeight = $more.IovWeight
        PoolName = $more.PoolName
        StormLimit = $more.StormLimit
        TestReplicaPoolName = $more.TestReplicaPoolName
        TestReplicaSwitchName = $more.TestReplicaSwitchName
        VmqWeight = $more.VmqWeight
        Bandwidth = @($bandwidth)
        Vlan = @($vlan)
    }
}
$checkpoints = foreach ($checkpoint in Hyper-V\Get-VMSnapshot -VM $vm) {
    [pscustomobject]@{
        Id = "$($checkpoint.Id)"
        Name = $checkpoint.Name
        SnapshotType = "$($checkpoint.SnapshotType)"
    }
}
$description = [pscustomobject]@{
    Id = "$($vm.Id)"
    Name = $vm.Name
    Generation = $vm.Generation
    State = "$($vm.State)"
    Status = $vm.Status
    Notes = "$($vm.Notes)"
    AutomaticStartAction = "$($vm.AutomaticStartAction)"
    AutomaticStartDelay = $vm.AutomaticStartDelay
    AutomaticStopAction = "$($vm.AutomaticStopAction)"
    AutomaticCheckpointsEnabled = $optional.AutomaticCheckpointsEnabled
    CheckpointType = "$($optional.CheckpointType)"
    IsClustered = $optional.IsClustered
    ReplicationState = "$($optional.ReplicationState)"
    Bios = $bios
    DvdDrives = @($dvdDrives)
    HardDrives = @($hardDrives)
    ComPorts = @($comPorts)
    NetworkAdapters = @($adapters)
    Checkpoints = @($checkpoints)
}
Microsoft.PowerShell.Utility\ConvertTo-Json -InputObject @($description) -Depth 6 -Compress
