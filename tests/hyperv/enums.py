"""The enumerations of the Hyper-V module, with their numbers.

Names and numbers are those of the module's own types, as HyperVDsc's stubs of it record them
(dsccommunity/HyperVDsc, tests/Unit/Stubs/Hyper-V.stubs.psm1).
"""

from collections.abc import Mapping

from hyperv.values import Enumeration


def _enumeration(name: str, members: Mapping[str, int]) -> Enumeration:
    return Enumeration(f"Microsoft.HyperV.PowerShell.{name}", members)


VM_STATE = _enumeration(
    "VMState",
    {
        "Other": 1,
        "Running": 2,
        "Off": 3,
        "Stopping": 4,
        "Saved": 6,
        "Paused": 9,
        "Starting": 10,
        "Reset": 11,
        "Saving": 32773,
        "Pausing": 32776,
        "Resuming": 32777,
        "FastSaved": 32779,
        "FastSaving": 32780,
        "ForceShutdown": 32781,
        "ForceReboot": 32782,
        "Hibernated": 32783,
        "ComponentServicing": 32784,
        "RunningCritical": 32785,
        "OffCritical": 32786,
        "StoppingCritical": 32787,
        "SavedCritical": 32788,
        "PausedCritical": 32789,
        "StartingCritical": 32790,
        "ResetCritical": 32791,
        "SavingCritical": 32792,
        "PausingCritical": 32793,
        "ResumingCritical": 32794,
        "FastSavedCritical": 32795,
        "FastSavingCritical": 32796,
    },
)
BOOT_DEVICE = _enumeration(
    "BootDevice",
    {
        "Floppy": 0,
        "CD": 1,
        "IDE": 2,
        "LegacyNetworkAdapter": 3,
        "NetworkAdapter": 4,
        "VHD": 5,
    },
)
START_ACTION = _enumeration("StartAction", {"Nothing": 2, "StartIfRunning": 3, "Start": 4})
STOP_ACTION = _enumeration("StopAction", {"TurnOff": 2, "Save": 3, "ShutDown": 4})
CHECKPOINT_TYPE = _enumeration(
    "CheckpointType", {"Disabled": 2, "Production": 3, "ProductionOnly": 4, "Standard": 5}
)
SNAPSHOT_TYPE = _enumeration(
    "SnapshotType",
    {
        "Standard": 0,
        "Recovery": 1,
        "Planned": 2,
        "Missing": 5,
        "Replica": 6,
        "AppConsistentReplica": 7,
        "SyncedReplica": 8,
    },
)
ON_OFF = _enumeration("OnOffState", {"On": 0, "Off": 1})
CONTROLLER_TYPE = _enumeration("ControllerType", {"IDE": 0, "SCSI": 1, "PMEM": 2})
DVD_MEDIA_TYPE = _enumeration("DvdMediaType", {"None": 0, "ISO": 1, "PassThrough": 2})
HEARTBEAT = _enumeration(
    "VMHeartbeatStatus",
    {
        "Unknown": 0,
        "Disabled": 1,
        "NoContact": 2,
        "Error": 3,
        "LostCommunication": 4,
        "OkApplicationsUnknown": 5,
        "OkApplicationsHealthy": 6,
        "OkApplicationsCritical": 7,
        "Paused": 8,
    },
)
REPLICATION_STATE = _enumeration(
    "VMReplicationState",
    {
        "Disabled": 0,
        "ReadyForInitialReplication": 1,
        "InitialReplicationInProgress": 2,
        "WaitingForInitialReplication": 3,
        "Replicating": 4,
        "PreparedForFailover": 5,
        "FailedOverWaitingCompletion": 6,
        "FailedOver": 7,
        "Suspended": 8,
        "Error": 9,
    },
)
PORT_MIRRORING = _enumeration(
    "VMNetworkAdapterPortMirroringMode", {"None": 0, "Destination": 1, "Source": 2}
)
VLAN_MODE = _enumeration(
    "VMNetworkAdapterVlanMode", {"Untagged": 0, "Access": 1, "Trunk": 2, "Private": 3}
)
# 0 has no name of its own: a port without a private VLAN gives the text "0".
PRIVATE_VLAN_MODE = _enumeration(
    "VMNetworkAdapterPrivateVlanMode", {"0": 0, "Isolated": 1, "Community": 2, "Promiscuous": 3}
)
ISOLATION_MODE = _enumeration(
    "VMNetworkAdapterIsolationMode",
    {"None": 0, "NativeVirtualSubnet": 1, "ExternalVirtualSubnet": 2, "Vlan": 3},
)
SWITCH_TYPE = _enumeration("VMSwitchType", {"Private": 0, "Internal": 1, "External": 2})

ALL_ENUMERATIONS = (
    VM_STATE,
    BOOT_DEVICE,
    START_ACTION,
    STOP_ACTION,
    CHECKPOINT_TYPE,
    SNAPSHOT_TYPE,
    ON_OFF,
    CONTROLLER_TYPE,
    DVD_MEDIA_TYPE,
    HEARTBEAT,
    REPLICATION_STATE,
    PORT_MIRRORING,
    VLAN_MODE,
    PRIVATE_VLAN_MODE,
    ISOLATION_MODE,
    SWITCH_TYPE,
)
