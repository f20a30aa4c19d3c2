"""What the server has acknowledged: told to the log, then to the ledger."""

from __future__ import annotations

from collections.abc import Mapping

from mxdeliver.core.log import Log
from mxdeliver.core.model import Artifact, Bundle, Client, DailyFile
from mxdeliver.edge.ledger import Lease, PublishEvidence, ServerProfile
from mxdeliver.edge.sftp import RenameOutcome, Session


class Acknowledged:
    """Writes down which files of one push have arrived."""

    def __init__(
        self, bundle: Bundle, client: Client, *, session: Session, lease: Lease, log: Log
    ) -> None:
        self._bundle = bundle
        self._client = client
        self._session = session
        self._lease = lease
        self._log = log

    def note(
        self,
        outcomes: Mapping[str, RenameOutcome],
        levels: Mapping[str, str],
        *,
        moved: bool = False,
        profile: ServerProfile | None = None,
    ) -> None:
        """Take note of files by name: how they came there, and how well they were compared.

        `moved` and `profile` are as `Lease.published` has them.

        Killed between log and ledger, the next run says it again, as the whole delivery (`deliver`).
        """
        files = [file for file in self._bundle.files if file.name in outcomes]
        if not files:
            return
        for file in files:
            self._tell(file)
        facts = self._session.facts
        self._lease.published(
            {
                file.name: PublishEvidence(
                    level=levels[file.name],
                    size=file.encrypted_file_size,
                    outcome=outcomes[file.name].value,
                    address=facts.address,
                    host_key=facts.host_key,
                    server=facts.server,
                )
                for file in files
            },
            moved=moved,
            profile=profile,
        )

    def _tell(self, file: Artifact) -> None:
        fields: dict[str, object] = {
            "file_name": file.name,
            "record_count": file.record_count,
            "file_size": file.file_size,
            "encrypted_file_size": file.encrypted_file_size,
            "checksum": file.checksum,
            "host": self._client.endpoint.host,
            "port": self._client.endpoint.port,
        }
        if isinstance(file.identity, DailyFile):
            fields["resource_type"] = file.identity.resource.upper()
            fields["event_type"] = file.identity.event.value
            self._log("file.delivered", f"{file.name} delivered", **fields)
        else:
            self._log("manifest.delivered", f"{file.name} delivered", **fields)
