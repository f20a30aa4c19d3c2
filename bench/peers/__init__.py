"""What people would use instead, each as its users would set it up to be fast.

script       the script that most people would write: DuckDB, fastavro, gpg, OpenSSH's sftp
best_parts   the same from the fastest parts: DuckDB, polars, pysequoia, lftp
avro         the Avro writers, from record batches in memory
openpgp      the OpenPGP programs and libraries, on one file
transfer     the programs that transfer files
paramiko_put paramiko's own `put`, on eight channels

The scripts get a plan, which `bench.ground` writes: what the configuration is to mxdeliver.
"""
