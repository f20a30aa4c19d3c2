"""SFTP to a client's server: proven address and host key, every answer looked at, nothing replaced.

address         one resolution, allowed addresses, a socket that gives up on a dead peer
watchdog        ends whatever takes too long
transport       paramiko's encrypted transport, bounded and restricted
opening         one session channel, asked for without waiting
handshake       key exchange until a pinned host key is shown; scanning host keys
authentication  each credential at most once
engine          SFTP version 3, many requests under way at once
channels        SFTP on one channel of the connection, and on more where the way is long
directory       paths, and looking at them
upload          many files to temporary names, or to final ones where nothing can be renamed
verification    sizes and hashes of what was sent
publish         temporary names to final names
session         what the rest of the program uses
"""

from mxdeliver.edge.sftp.failures import NameUnknown, RenameRefused, TemporaryVanished
from mxdeliver.edge.sftp.model import (
    Credentials,
    Evidence,
    Limits,
    Move,
    Ownership,
    PeerFacts,
    RemoteAttributes,
    RenameOutcome,
    Renaming,
    ScannedHostKey,
    Upload,
)
from mxdeliver.edge.sftp.session import Session, connect, scan_host_keys

__all__ = [
    "Credentials",
    "Evidence",
    "Limits",
    "Move",
    "NameUnknown",
    "Ownership",
    "PeerFacts",
    "RemoteAttributes",
    "RenameOutcome",
    "RenameRefused",
    "Renaming",
    "ScannedHostKey",
    "Session",
    "TemporaryVanished",
    "Upload",
    "connect",
    "scan_host_keys",
]
