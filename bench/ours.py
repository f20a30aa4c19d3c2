"""Parts of mxdeliver in a process of their own, where a workload is not about the whole command.

    python -m bench.ours seal CONFIG DAY      build and seal, send nothing
    python -m bench.ours push CONFIG DAY      send what is sealed; timed from the call to its return
    python -m bench.ours days CONFIG DAY DAY  `run` for two days in one process; the second is timed
    python -m bench.ours avro FILE RESOURCE CODEC OUTPUT
    python -m bench.ours openpgp FILE KEY OUTPUT

`avro` encodes the record batches of an Arrow file, whose schema lies in `schemas/` beside it; `openpgp` encrypts a file; both are timed without
imports and reading. All tell the time as JSON in their last line.
"""

# ruff: noqa: E402 - as in the command, libraries are loaded after `settle`
from __future__ import annotations

from mxdeliver.interpreter import settle

settle()

import contextlib
import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

from bench.measure import Growth, tell
from mxdeliver import binding, cli
from mxdeliver.build import Threads, build
from mxdeliver.cli import wiring
from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.model import Client, Codec, DeliveryKey, Verification
from mxdeliver.edge.avro import ContainerWriter, load_resources
from mxdeliver.edge.openpgp import MessageWriter, vet
from mxdeliver.push import push
from mxdeliver.site import Site

_PIECE = 1 << 20


def main() -> None:
    """Do one of the parts."""
    part, *arguments = sys.argv[1:]
    parts: dict[str, Callable[..., None]] = {
        "seal": seal,
        "push": send,
        "days": days,
        "avro": avro,
        "openpgp": openpgp,
    }
    parts[part](*arguments)


@contextmanager
def _opened(config: str, day: str) -> Iterator[tuple[Site, Client, DeliveryKey]]:
    configuration = wiring.load(Path(config))
    (client,) = configuration.clients
    with wiring.open_site(
        configuration, resources=load_resources(), run_id="bench", stop=Event()
    ) as site:
        date = SnapshotDate.fromisoformat(day)
        [delivery] = site.ledger.ensure([client], date, now=site.clock())
        yield site, client, delivery.key


def seal(config: str, day: str) -> None:
    """Build a bundle and leave it in the spool."""
    started = time.perf_counter()
    with _opened(config, day) as (site, client, key), Threads() as threads:
        build(
            key,
            client,
            resources=binding.resources_of(client, site.resources),
            source=site.source(client.source),
            certificate=binding.certificate(client, site.clock()),
            spool=site.spool,
            threads=threads,
            log=site.log(key),
            stop=site.stop,
        )
    tell(time.perf_counter() - started)


def send(config: str, day: str) -> None:
    """Push a sealed bundle as `deliver` does."""
    with _opened(config, day) as (site, client, key):
        now = site.clock()
        bundle = site.spool.bundle(key)
        if bundle is None:
            raise RuntimeError("nothing is sealed")
        with site.ledger.claim(
            key, now=now, context=site.context(client), deadline=now + client.retry.deadline
        ) as lease:
            lease.sealed(bundle)
            started = time.perf_counter()
            push(
                bundle,
                client,
                lease=lease,
                records=site.ledger,
                spool=site.spool,
                credentials=binding.credentials(client),
                today=now.astimezone(UTC).date(),
                nonce=site.nonce,
                log=site.log(key, attempt=lease.number),
                stop=site.stop,
            )
            seconds = time.perf_counter() - started
            lease.delivered(now=site.clock())
    tell(seconds, files=len(bundle.files), bytes=bundle.encrypted_size)


def days(config: str, first: str, second: str) -> None:
    """Run the command for two days, one after the other."""
    seconds = 0.0
    for day in (first, second):
        started = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            status = cli.root.main(
                ["run", "-c", config, "--date", day, "--json"],
                prog_name="mxdeliver",
                standalone_mode=False,
            )
        seconds = time.perf_counter() - started
        if status:
            raise RuntimeError(f"run ended with {status}")
    tell(seconds)


def avro(path: str, resource_name: str, codec: str, output: str) -> None:
    """Write all record batches of an Arrow file to a container file."""
    import pyarrow as pa  # noqa: PLC0415 - the other parts do without

    with pa.OSFile(path) as file:  # read, not mapped: the pages are this process's own
        batches = list(pa.ipc.open_file(file).read_all().to_batches())
    resource = load_resources([Path(path).parent / "schemas"])[resource_name]
    with Path(output).open("wb", buffering=0) as sink:
        growth = Growth()
        started = time.perf_counter()
        writer = ContainerWriter(
            resource,
            sink.write,
            codec=Codec(codec),
            sync_marker=bytes(16),
            verification=Verification.SAMPLE,
        )
        for batch in batches:
            writer.write(batch)
        rows = writer.finish()
        seconds = time.perf_counter() - started
    tell(seconds, rows=rows, growth=growth.bytes())


def openpgp(path: str, key: str, output: str) -> None:
    """Encrypt a file, read in pieces of a mebibyte."""
    certificate = vet(Path(key).read_bytes(), at=datetime.now(UTC))
    with Path(path).open("rb", buffering=0) as file, Path(output).open("wb", buffering=0) as sink:
        growth = Growth()
        started = time.perf_counter()
        writer = MessageWriter(certificate.encryption_keys, sink.write)
        while piece := file.read(_PIECE):
            writer.write(piece)
        writer.finish()
        seconds = time.perf_counter() - started
    tell(seconds, growth=growth.bytes())


if __name__ == "__main__":
    main()
