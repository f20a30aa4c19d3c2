"""mxdeliver delivers each client's daily files to the client's own server: once, whole, for them alone.

The package in reading order:

    cli          commands; wiring; the only place that exits
    worker       which deliveries are due, retries, clients side by side, the stop flag
    logins       logins that were refused, and are not tried again
    deliver      one attempt of one delivery, begin to end
    unknown_names  servers' names that do not exist, counted and told once
    site         what deliveries share, and what an attempt of one comes to
    binding      what a client is bound to: certificate, login, and the version of both
    builders     processes of their own that build, and nothing else
    build        daily files -> sealed bundle: records, Avro, SHA-256, OpenPGP, spool, manifest
    push         sealed bundle -> the client's server: files in parallel, manifest last
    receive      for the recipient: received files against their manifest
    report       the ledger, for people and dashboards
    edge         one module or package per outside thing
      config       YAML with line numbers -> the frozen types of core
      sources      one consistent snapshot of a day as Arrow record batches
      avro         .avsc files; record batches -> Avro container bytes
      openpgp      certificate vetting; streaming message writer and reader
      sftp         endpoint checks, connection, request engine
      ledger       what was delivered, what is owed, who is at it
      spool        sealed ciphertext on disk
      journal      delivery log lines
      kernel       what a process asks of the kernel before it touches keys, secrets and records
    core         model, errors, naming, manifest, calendar, retry, secret, streams: no I/O, no clock
    interpreter  how a process sets up Python and its libraries, before they are loaded
    demo         sample warehouse, keys, and a loopback server
"""

__version__ = "0.1.0"
