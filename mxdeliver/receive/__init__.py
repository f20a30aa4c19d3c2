"""For the recipient: received files against their manifests, both ways.

A manifest speaks for the files beside it in its own directory. Every daily file is decrypted as a
stream into a counter, a hash and an Avro parser; nothing is written, and memory does not grow with
the files. What a manifest cannot tell stays untold: encryption does not prove who sent a file.

Reading order: `findings` (what comes out), `check` (manifests against files), `files` (looking into
directories and messages).
"""

from mxdeliver.receive.check import verify
from mxdeliver.receive.findings import CheckedManifest, Fault, FaultCode, Verdict

__all__ = ["CheckedManifest", "Fault", "FaultCode", "Verdict", "verify"]
