"""This program beside what people would use instead, measured in one run: `make bench`.

    make bench BENCH="--only a,d --rounds 3 --small"     some workloads, fewer rounds, small data
    .venv/bin/python -m bench --only a                   one workload as it is in a full run
    .venv/bin/python -m bench --only avro --results x.md also written to a file

Only a full run (no option but --seed) writes bench/RESULTS.md. Workloads: `workloads/__init__.py`.

    __main__   the command line
    contest    who runs when
    measure    time and memory of processes
    ground     clients, keys, server
    data       records
    delay      a proxy that adds round-trip time
    checks     what everybody made is looked at
    ours       parts of this program in processes of their own
    peers      what people would use instead
    workloads  what is to be done
    report     the page; machine: where and with which versions
"""
