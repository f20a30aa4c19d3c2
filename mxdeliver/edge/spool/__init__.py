"""Sealed ciphertext on disk: `state_dir/spool/<client>.<date>.r<revision>/`, one folder a bundle.

A bundle is staged in a hidden folder and sealed by one rename, each step durable before the next:
files, `bundle.json`, the folder, the rename. A power cut leaves a whole bundle or none. A staging
folder is locked by its process; one whose lock is free was left behind by a process that died.

`bundle.json` says what was sealed, so that a lost ledger can be rebuilt from the spool. Only
ciphertext ever comes here. Whether a sealed file may still be sent, or may go, is the ledger's to
say.

Reading order: `folders` (names, modes, errors), `bundle_file`, `staging`, `store`.
"""

from mxdeliver.edge.spool.staging import SpoolFile, Staging
from mxdeliver.edge.spool.store import Spool

__all__ = ["Spool", "SpoolFile", "Staging"]
