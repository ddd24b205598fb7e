"""Models that ship with Aetheria: one file each, found by the registry."""
