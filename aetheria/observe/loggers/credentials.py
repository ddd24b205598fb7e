"""Whether credentials for a service are there. Never returns or prints them."""

import netrc
import os
from pathlib import Path


def has_netrc_entry(host: str) -> bool:
    """Whether the user's netrc file has an entry for a host."""
    file = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    try:
        return netrc.netrc(file).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
