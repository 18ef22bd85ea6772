# Change the hardware of a virtual machine that is off: what an attach and a detach are made of.
# The caller has compared what is with what is wanted; every list holds what is left to do.
# An adapter is removed after its successor was added, so that either is there whenever this is cut
# short. ISOs come last: where one cannot be inserted, all else is done.
# Asked: Id; EjectFrom, RemoveDvdDrives, AddDvdDrives (slots), Insert (slots, Path); Bios, ComPorts;
# AddAdapters, RemoveAdapters (ids), SetAdapters; AutomaticActions, AutomaticCheckpoints.
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
foreach ($slot in $asked.EjectFrom) {
    $drive = Hyper-V\Get-VMDvdDrive -VM $vm -ControllerNumber $slot.ControllerNumber -ControllerLocation $slot.ControllerLocation
    Hyper-V\Set-VMDvdDrive -VMDvdDrive $drive -Path $null -Confirm:$false
}
foreach ($slot in $asked.RemoveDvdDrives) {
    $drive = Hyper-V\Get-VMDvdDrive -VM $vm -ControllerNumber $slot.ControllerNumber -ControllerLocation $slot.ControllerLocation
    Hyper-V\Remove-VMDvdDrive -VMDvdDrive $drive -Confirm:$false
}
foreach ($slot in $asked.AddDvdDrives) {
    Hyper-V\Add-VMDvdDrive -VM $vm -ControllerNumber $slot.ControllerNumber -ControllerLocation $slot.ControllerLocation -Confirm:$false
}
foreach ($bios in $asked.Bios) {
    Hyper-V\Set-VMBios -VM $vm -StartupOrder $bios.StartupOrder -Confirm:$false
}
foreach ($port in $asked.ComPorts) {
    Hyper-V\Set-VMComPort -VM $vm -Number $port.Number -Path $port.Path -Confirm:$false
}
foreach ($wanted in $asked.AddAdapters) {
    Hyper-V\Add-VMNetworkAdapter -VM $vm -Name $wanted.Name -IsLegacy $wanted.IsLegacy -Confirm:$false
}
foreach ($adapter in Hyper-V\Get-VMNetworkAdapter -VM $vm) {
    if ($asked.RemoveAdapters -contains $adapter.Id) {
        Hyper-V\Remove-VMNetworkAdapter -VMNetworkAdapter $adapter -Confirm:$false
    }
}
foreach ($wanted in $asked.SetAdapters) {
    foreach ($adapter in Hyper-V\Get-VMNetworkAdapter -VM $vm) {
        if ($wanted.Id -eq $adapter.Id) {
            foreach ($address in $wanted.StaticMacAddress) {
                Hyper-V\Set-VMNetworkAdapter -VMNetworkAdapter $adapter -StaticMacAddress $address -Confirm:$false
            }
            foreach ($security in $wanted.Security) {
                Hyper-V\Set-VMNetworkAdapter -VMNetworkAdapter $adapter -MacAddressSpoofing $security.MacAddressSpoofing -DhcpGuard $security.DhcpGuard -RouterGuard $security.RouterGuard -PortMirroring $security.PortMirroring -IeeePriorityTag $security.IeeePriorityTag -Confirm:$false
            }
            foreach ($value in $wanted.AllowTeaming) {
                Hyper-V\Set-VMNetworkAdapter -VMNetworkAdapter $adapter -AllowTeaming $value -Confirm:$false
            }
            foreach ($value in $wanted.StormLimit) {
                Hyper-V\Set-VMNetworkAdapter -VMNetworkAdapter $adapter -StormLimit $value -Confirm:$false
            }
            foreach ($value in $wanted.DynamicIpAddressLimit) {
                Hyper-V\Set-VMNetworkAdapter -VMNetworkAdapter $adapter -DynamicIPAddressLimit $value -Confirm:$false
            }
            foreach ($value in $wanted.NotMonitoredInCluster) {
                Hyper-V\Set-VMNetworkAdapter -VMNetworkAdapter $adapter -NotMonitoredInCluster $value -Confirm:$false
            }
            foreach ($vlan in $wanted.Access) {
                Hyper-V\Set-VMNetworkAdapterVlan -VMNetworkAdapter $adapter -Access -VlanId $vlan.VlanId -Confirm:$false
            }
            foreach ($vlan in $wanted.Trunk) {
                Hyper-V\Set-VMNetworkAdapterVlan -VMNetworkAdapter $adapter -Trunk -NativeVlanId $vlan.NativeVlanId -AllowedVlanIdList $vlan.AllowedVlanIdList -Confirm:$false
            }
            foreach ($vlan in $wanted.Isolated) {
                Hyper-V\Set-VMNetworkAdapterVlan -VMNetworkAdapter $adapter -Isolated -PrimaryVlanId $vlan.PrimaryVlanId -SecondaryVlanId $vlan.SecondaryVlanId -Confirm:$false
            }
            foreach ($vlan in $wanted.Community) {
                Hyper-V\Set-VMNetworkAdapterVlan -VMNetworkAdapter $adapter -Community -PrimaryVlanId $vlan.PrimaryVlanId -SecondaryVlanId $vlan.SecondaryVlanId -Confirm:$false
            }
            foreach ($vlan in $wanted.Promiscuous) {
                Hyper-V\Set-VMNetworkAdapterVlan -VMNetworkAdapter $adapter -Promiscuous -PrimaryVlanId $vlan.PrimaryVlanId -SecondaryVlanIdList $vlan.SecondaryVlanIdList -Confirm:$false
            }
            # Not by -SwitchName: that is a pattern, and no pattern fits a name with a bracket or quote.
            foreach ($name in $wanted.Connect) {
                $found = foreach ($virtualSwitch in Hyper-V\Get-VMSwitch) {
                    if ($name -eq $virtualSwitch.Name) {
                        $virtualSwitch
                    }
                }
                Hyper-V\Connect-VMNetworkAdapter -VMNetworkAdapter $adapter -VMSwitch $found -Confirm:$false
            }
        }
    }
}
foreach ($setting in $asked.AutomaticActions) {
    Hyper-V\Set-VM -VM $vm -AutomaticStartAction $setting.Start -AutomaticStopAction $setting.Stop -Confirm:$false
}
foreach ($setting in $asked.AutomaticCheckpoints) {
    Hyper-V\Set-VM -VM $vm -AutomaticCheckpointsEnabled $setting.Enabled -Confirm:$false
}
foreach ($medium in $asked.Insert) {
    $drive = Hyper-V\Get-VMDvdDrive -VM $vm -ControllerNumber $medium.ControllerNumber -ControllerLocation $medium.ControllerLocation
    Hyper-V\Set-VMDvdDrive -VMDvdDrive $drive -Path $medium.Path -Confirm:$false
}
Microsoft.PowerShell.Utility\ConvertTo-Json -InputObject @() -Depth 6 -Compress
