"""Lists and verifies the snapshots of a run."""

COMMANDS = {
    ("snapshots",): "aetheria.tools.snapshots.command:SnapshotsCommand",
    ("snapshots", "verify"): "aetheria.tools.snapshots.command:VerifySnapshotsCommand",
}
