"""What a server is taken to have acknowledged, for tests of the ledger."""

from mxdeliver.edge.ledger import PublishEvidence

EVIDENCE = PublishEvidence(
    level="size",
    size=7,
    outcome="renamed",
    address="127.0.0.1",
    host_key="SHA256:abc",
    server="OpenSSH_9.2p1",
)
