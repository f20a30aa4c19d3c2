"""Everything that can go wrong, once.

    MxdeliverError
    ├── ConfigurationError   stops the program, or one client's entry            (exit 78)
    ├── UsageError           the command was given something it cannot do        (exit 2)
    ├── Transient            heals by itself: tried again until the deadline
    │   └── SlowTransient    as above, at the longest wait from the start
    ├── NeedsPerson          parked until a person or a change helps
    ├── Fatal                this delivery has failed
    └── Elsewhere            another process has the delivery; nothing is wrong

Each class below one of these has a `code` (the name in logs, ledger and `mxdeliver explain`), a
docstring that tells the cause, and a `remedy` for the person who reads it. An instance's message
says what happened this time, for which client and file; it never holds a secret or a record value,
and a peer's words only after `peer_text`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from traceback import extract_tb
from typing import ClassVar, Self


class Kind(Enum):
    """What the program does by itself; `explain` prints the values where a class has no sentence."""

    CONFIGURATION = (
        "Nothing is started for what the problem concerns; other clients are delivered where the "
        "problem lies in one client's entry."
    )
    USAGE = "Nothing is started."
    TRANSIENT = (
        "The delivery is tried again with growing waits, in this run and in later ones, until its "
        "deadline; then it has failed with DEADLINE."
    )
    SLOW = (
        "The delivery is tried again at the longest wait, in this run and in later ones, until its "
        "deadline; then it has failed with DEADLINE."
    )
    PARKED = (
        "The delivery is parked: nothing is tried until the client's configuration, key, secret or schema "
        "changes (which opens days within `catch_up_days` alone), or until `mxdeliver resume`."
    )
    FAILED = (
        "The delivery has failed and is not tried again until `mxdeliver resume` or "
        "`mxdeliver run --date`."
    )
    ELSEWHERE = "Nothing: another process has the delivery, and this one leaves it alone."


class MxdeliverError(Exception):
    """Root of all errors that the program raises on purpose."""

    code: ClassVar[str] = "INTERNAL"
    kind: ClassVar[Kind] = Kind.FAILED
    remedy: ClassVar[str] = ""
    action: ClassVar[str] = ""
    """What the program does by itself, where the sentence of its kind would not be true."""
    tries: ClassVar[int | None] = None
    """After how many attempts the program stops trying, deadline or not."""

    @property
    def retryable(self) -> bool:
        """Whether the program tries again by itself."""
        return self.kind in {Kind.TRANSIENT, Kind.SLOW}

    @classmethod
    def what_is_done(cls) -> str:
        """Give the sentence that says what the program does by itself."""
        return cls.action or cls.kind.value

    def explain(self) -> str:
        """Give the message and, on the same line, what to do."""
        return f"{self}. {self.remedy}" if self.remedy else str(self)


class ConfigurationError(MxdeliverError):
    """Something written down is wrong."""

    kind = Kind.CONFIGURATION


class UsageError(MxdeliverError):
    """The command cannot be carried out as given."""

    code = "USAGE"
    kind = Kind.USAGE
    remedy = (
        "`mxdeliver --help` names the commands; each of them tells with `--help` what it can do."
    )


class Transient(MxdeliverError):
    """Heals by itself."""

    kind = Kind.TRANSIENT


class SlowTransient(Transient):
    """Heals by itself, but not within seconds."""

    kind = Kind.SLOW


class NeedsPerson(MxdeliverError):
    """A person or a change is needed."""

    kind = Kind.PARKED


class Fatal(MxdeliverError):
    """This delivery has failed."""

    kind = Kind.FAILED


class Elsewhere(MxdeliverError):
    """Another process has the delivery."""

    kind = Kind.ELSEWHERE


# -- configuration and usage -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong in a configuration file. `line` counts from 1; `path` is like `clients[0].sftp.port`."""

    file: str
    line: int | None
    path: str
    problem: str
    remedy: str
    code: str = "CONFIG_INVALID"

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        path = f" {self.path}:" if self.path else ""
        return f"{where}:{path} {self.problem}, {self.remedy}"


class ConfigInvalid(ConfigurationError):
    """The configuration cannot be read or breaks its rules."""

    code = "CONFIG_INVALID"
    remedy = "Correct the lines named and run `mxdeliver check`."

    def __init__(self, message: str, problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


class PortNotAllowed(ConfigurationError):
    """A client's server is on port 22, which the clients' contract excludes."""

    code = "PORT_NOT_ALLOWED"
    remedy = "Ask the client for a port other than 22, and give that one."


class SchemaInvalid(ConfigurationError):
    """A schema file is not valid Avro, or uses something that cannot be delivered."""

    code = "SCHEMA_INVALID"
    remedy = "Correct the .avsc file named; `mxdeliver check` reads them all."


class DayNotClosed(UsageError):
    """The day asked for has not ended yet in the zone of any chosen client."""

    code = "DAY_NOT_CLOSED"
    remedy = "Ask for a day that has ended, or leave the date out to deliver what is due."


# -- source and records ----------------------------------------------------------------------------


class SourceUnavailable(Transient):
    """The source cannot be opened: it is down, missing, locked by its writer, or refuses the login."""

    code = "SOURCE_UNAVAILABLE"
    remedy = "Check that the source runs and that its database or files are where the configuration says."


class SourceIncomplete(Transient):
    """The source stopped, changed or miscounted before the day was read to its end."""

    code = "SOURCE_INCOMPLETE"
    remedy = "Nothing was sealed or sent. If it happens again, look at what writes to the source at that hour."


class SourceSchema(NeedsPerson):
    """A table, query or column does not fit the resource's schema."""

    code = "SOURCE_SCHEMA"
    remedy = (
        "Make the source give the schema's columns and client_guid (docs/sources.md), correct its "
        "`queries`, or name in the client's `resources` only what the source has."
    )


class SourceMemory(NeedsPerson):
    """A query needs more memory than the source may take."""

    code = "SOURCE_MEMORY"
    remedy = "Raise the source's `memory_limit`, or make the query return less at once."


class RecordInvalid(NeedsPerson):
    """A record cannot be written without changing it, or belongs to another client."""

    code = "RECORD_INVALID"
    remedy = (
        "Correct the record or its column in the source, then `mxdeliver resume`, because a change "
        "in the source is not noticed. No value is guessed and nothing was sent."
    )


class AvroVerify(Fatal):
    """A block that was read again differs from the records it was made of."""

    code = "AVRO_VERIFY"
    remedy = (
        "Run `mxdeliver resume`; if it happens again, check the host's memory and report a bug."
    )


class BuilderDied(Transient):
    """A process that builds ended in the middle of a day: killed, for its memory or by hand, or crashed."""

    code = "BUILDER_DIED"
    remedy = (
        "Nothing yet: it is tried again in a new process. If it lasts, look in the kernel's log for "
        "processes that were killed for their memory, and lower `schedule.workers`; or report a bug."
    )


# -- keys and encryption ---------------------------------------------------------------------------


class KeyProblem(NeedsPerson):
    """The client's public key cannot be used."""


class KeyMissing(KeyProblem):
    """The public key file does not exist or cannot be read, or no key is valid on this date."""

    code = "KEY_MISSING"
    remedy = "Put the client's public key where `pgp.public_key` says."


class KeyParse(KeyProblem):
    """The file is not one OpenPGP certificate that can be read."""

    code = "KEY_PARSE"
    remedy = (
        "Ask the client for `gpg --armor --export FINGERPRINT`, which begins with "
        "BEGIN PGP PUBLIC KEY BLOCK."
    )


class KeyMultiple(KeyProblem):
    """The file holds more than one certificate."""

    code = "KEY_MULTIPLE"
    remedy = "Keep one certificate per file: `gpg --armor --export FINGERPRINT`."


class KeyFingerprint(KeyProblem):
    """The certificate is not the one that was pinned."""

    code = "KEY_FINGERPRINT"
    remedy = (
        "Compare fingerprints with the client over a second channel before changing "
        "`pgp.fingerprint`: a swapped key lets somebody else read the data."
    )


class KeyExpired(KeyProblem):
    """The certificate, or every key in it that can encrypt, has expired."""

    code = "KEY_EXPIRED"
    remedy = "Ask the client for their renewed certificate and replace the file."


class KeyRevoked(KeyProblem):
    """The client has revoked the certificate, or every key in it that can encrypt."""

    code = "KEY_REVOKED"
    remedy = "Ask the client for a new certificate and pin its fingerprint."


class KeyNoEncryptionSubkey(KeyProblem):
    """No key in the certificate may encrypt."""

    code = "KEY_NO_ENC_SUBKEY"
    remedy = "Ask the client to add an encryption subkey (`gpg --quick-add-key FINGERPRINT`) and export again."


class KeyWeak(KeyProblem):
    """The certificate uses algorithms or sizes that no longer protect."""

    code = "KEY_WEAK"
    remedy = "Ask the client for a key of at least RSA 2048, Curve25519 or a NIST curve, signed with SHA-2."


class KeySecretSupplied(KeyProblem):
    """The file holds the client's secret key."""

    code = "KEY_SECRET_SUPPLIED"
    remedy = (
        "Delete the file, tell the client that their secret key has left their hands, and ask for "
        "a new public key."
    )


class EncryptVerify(Fatal):
    """A message that was written does not have exactly the vetted recipients and its integrity packet."""

    code = "ENCRYPT_VERIFY"
    remedy = "Nothing was sent. Report a bug."


class MessageUnreadable(Fatal):
    """An encrypted file cannot be decrypted: wrong key, wrong passphrase, damaged or cut short."""

    code = "MESSAGE_UNREADABLE"
    remedy = (
        "Check the secret key and passphrase; if they are right, ask for the file to be sent again."
    )


# -- secrets ---------------------------------------------------------------------------------------


class SecretMissing(NeedsPerson):
    """A secret that the configuration refers to does not exist."""

    code = "SECRET_MISSING"
    remedy = (
        "Set the environment variable, write the file or let the user who runs mxdeliver read it, "
        "or load the credential that is named."
    )


class SecretMode(NeedsPerson):
    """A secret's file can be read by others or written by its group."""

    code = "SECRET_MODE"
    remedy = "Run `chmod 600` on the file, and change the secret if others may have read it."


# -- spool and ledger ------------------------------------------------------------------------------

_REFUSES = "The command stops before anything is delivered."


class SpoolFull(SlowTransient):
    """The disk, quota or number of files of the spool is used up."""

    code = "SPOOL_FULL"
    remedy = "Free space in `state_dir`, or lower `retention_days` and run `mxdeliver prune`."


class SpoolIO(SlowTransient):
    """The spool's disk does not read or write."""

    code = "SPOOL_IO"
    remedy = "Look at the disk under `state_dir` (read-only, failing, unmounted, over quota)."


class SpoolMode(Fatal):
    """Something in the state directory is open to others, belongs to somebody else, or is a link."""

    code = "SPOOL_MODE"
    action = _REFUSES
    remedy = (
        "Mend what is named; `state_dir` and all that lies in it belong to the user that mxdeliver "
        "runs as, and are for that user alone."
    )


class SpoolCorrupt(Fatal):
    """A sealed file is missing or is not what was sealed."""

    code = "SPOOL_CORRUPT"
    remedy = (
        "Nothing damaged appeared under its name. If the client has nothing of this day, "
        "`mxdeliver resend --rebuild` makes a new revision; if they have it whole, "
        "`mxdeliver adopt` writes that down. Look at the disk."
    )


class LedgerBusy(Transient):
    """The ledger was locked by another process for too long."""

    code = "LEDGER_BUSY"
    remedy = (
        "Look for a process that holds `state_dir/ledger.db` open (a backup, a database browser)."
    )


class LedgerCorrupt(Fatal):
    """The ledger cannot be read; delivering without it could deliver twice."""

    code = "LEDGER_CORRUPT"
    action = _REFUSES
    remedy = (
        "`mxdeliver ledger rebuild` sets it aside and reads the spool back into a new one; nothing "
        "is delivered until then."
    )


class LedgerVersion(Fatal):
    """The ledger was written by a newer version of the program."""

    code = "LEDGER_VERSION"
    action = _REFUSES
    remedy = "Run the newer version of mxdeliver, or restore the ledger's backup from before."


class LedgerMissing(Fatal):
    """There was a ledger, and it is gone; delivering now could deliver twice."""

    code = "LEDGER_MISSING"
    action = _REFUSES
    remedy = (
        "Put `state_dir/ledger.db` back if it was moved; otherwise `mxdeliver ledger rebuild` reads "
        "the spool back into a new one. Nothing is delivered until then."
    )


class DeliveryInDoubt(NeedsPerson):
    """The ledger was rebuilt or restored, and what the client has of this day cannot be seen."""

    code = "DELIVERY_IN_DOUBT"
    action = "The delivery is parked: nothing of the day is sent until a person has decided."
    remedy = (
        "Ask the client. If they have the day, `mxdeliver adopt` writes that down and nothing is "
        "sent; if they do not, `mxdeliver resume` with its `--date` sends what is not there."
    )


class LeaseHeld(Elsewhere):
    """Another process is at this delivery."""

    code = "LEASE_HELD"
    remedy = "Nothing: the other process goes on with it."


class LeaseLost(Elsewhere):
    """This process was stopped for so long that another one took the delivery over."""

    code = "LEASE_LOST"
    remedy = "Nothing: the other process goes on with it."


class StopRequested(Elsewhere):
    """The program was told to stop (SIGTERM or SIGINT) before the delivery was through."""

    code = "STOPPED"
    action = "The delivery stops where it is and keeps what it has; the next run goes on with it."
    remedy = "Nothing, as long as the timer, the daemon or a person runs mxdeliver again."


class ClockInsane(Fatal):
    """The host's clock is behind the ledger's last entry."""

    code = "CLOCK_INSANE"
    action = _REFUSES
    remedy = (
        "Set the host's clock; nothing is delivered until then. Where it is right, and the entry is "
        "of a clock that had run ahead, `mxdeliver ledger rebuild` makes the ledger anew."
    )


class DeadlinePassed(Fatal):
    """The delivery was not possible before its deadline, or its day left the catch-up window."""

    code = "DEADLINE"
    remedy = (
        "Remove what is named as the last error, then `mxdeliver resume` or `mxdeliver run --date`."
    )


class Internal(Fatal):
    """An unexpected error in the program itself; other clients are not affected."""

    code = "INTERNAL"
    remedy = "Report a bug with the message; then `mxdeliver resume`."

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """Name a bug by its place; an exception's own text may hold a record's value."""
        frames = extract_tb(error.__traceback__)
        place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        internal = cls(f"unexpected {type(error).__name__}{place}")
        internal.__cause__ = error
        return internal


# -- network and handshake -------------------------------------------------------------------------


class DnsFailed(Transient):
    """The server's name cannot be resolved."""

    code = "DNS_FAILED"
    remedy = "Check `sftp.host` and the host's resolver."
    action = (
        f"{Kind.TRANSIENT.value} A name that does not exist, as the resolver says three times in a row, "
        "is told once more in the delivery log, as the warning `name.unknown`."
    )


class AddressNotAllowed(NeedsPerson):
    """The server's name resolves to no address of the client's list; nothing was connected to."""

    code = "ADDRESS_NOT_ALLOWED"
    remedy = "Ask the client whether their address changed, then correct `sftp.allowed_ips`."


class ConnectTimeout(Transient):
    """The server's address did not answer in time."""

    code = "CONNECT_TIMEOUT"
    remedy = "Ask the client whether their server or firewall lets this host's address in."


class ConnectRefused(Transient):
    """Nothing listens on the server's port."""

    code = "CONNECT_REFUSED"
    remedy = "Ask the client whether their server runs, and on which port."


class NetworkUnreachable(Transient):
    """There is no route to the server's address."""

    code = "NETWORK_UNREACHABLE"
    remedy = "Check this host's network and routes."


class ConnectionLost(Transient):
    """The connection broke; what was published so far is found again by the next attempt."""

    code = "CONNECTION_LOST"
    remedy = "Nothing yet: it is tried again. If it lasts, ask the client for their server's log."


class Stalled(Transient):
    """The server stopped answering or reading for too long."""

    code = "STALLED"
    remedy = "Nothing yet: it is tried again. If it lasts, ask the client for their server's log."


class SshBanner(Transient):
    """What answers does not speak SSH, or not in time."""

    code = "SSH_BANNER"
    remedy = "Check host and port; ask the client whether an SFTP server listens there."


class SshAlgorithmMismatch(NeedsPerson):
    """The server offers no algorithm that is still considered safe."""

    code = "SSH_ALGO_MISMATCH"
    remedy = "Show the client both lists; their server needs an update or another setting."


class HostKeyMismatch(NeedsPerson):
    """The server showed none of the pinned host keys; no user name or password was sent."""

    code = "HOSTKEY_MISMATCH"
    remedy = (
        "Ask the client over a second channel whether they changed the key; only then put the new "
        "one into `sftp.host_keys`."
    )


class AuthFailed(NeedsPerson):
    """The server refused the login. It was tried once, so as not to lock the account."""

    code = "AUTH_FAILED"
    remedy = (
        "Ask the client for the right user name, password or key; a changed secret is noticed by itself "
        "for days within `catch_up_days`, and an older day needs `mxdeliver resume`."
    )


class AuthMethod(NeedsPerson):
    """The server asks for a way of login that is not configured or not supported."""

    code = "AUTH_METHOD"
    remedy = "Configure what the server asks for (`password`, `private_key`), or ask the client to allow it."


class AuthChangeRequired(NeedsPerson):
    """The server asks for the password to be changed."""

    code = "AUTH_CHANGE_REQUIRED"
    remedy = "Ask the client for a new password and store it."


class SessionLimit(SlowTransient):
    """The server accepts no further session at the moment."""

    code = "SESSION_LIMIT"
    remedy = "Nothing yet: it is tried again. If it lasts, ask the client to raise the limit."


class SftpUnavailable(NeedsPerson):
    """The server lets the user in but offers no SFTP version 3."""

    code = "SFTP_UNAVAILABLE"
    remedy = "Ask the client to enable the sftp subsystem for the user."


# -- the client's server ---------------------------------------------------------------------------


class RemoteDirectoryMissing(NeedsPerson):
    """The directory to deliver into does not exist; it is never created."""

    code = "REMOTE_DIR_MISSING"
    remedy = "Ask the client to create it, or correct `sftp.directory`."


class RemoteDenied(NeedsPerson):
    """The server denies the user what delivering needs."""

    code = "REMOTE_DENIED"
    remedy = "Ask the client to let the user create and rename files in the directory."


class RemoteFull(SlowTransient):
    """The server's disk or the user's quota is used up."""

    code = "REMOTE_FULL"
    remedy = "Ask the client to free space; it is tried again."


class RemoteFailure(Transient):
    """The server failed at a request without saying why."""

    code = "REMOTE_FAILURE"
    remedy = "Nothing yet: it is tried again. If it lasts, ask the client for their server's log."


class RemoteName(Fatal):
    """The server does not accept a file name."""

    code = "REMOTE_NAME"
    remedy = "Ask the client which names their server accepts; `files.suffix` is the part that can change."


class RemoteConflict(NeedsPerson):
    """Something else already lies under a name that is to be delivered; it is never replaced."""

    code = "REMOTE_CONFLICT"
    remedy = (
        "Ask the client to move it away, then `mxdeliver resume`, because a change on the server "
        "is not noticed. If it is the day itself, delivered in another way or before the ledger was "
        "lost, `mxdeliver adopt` writes that down and nothing is sent."
    )


class RemoteVerify(Transient):
    """What lies on the server is not what was sent."""

    code = "REMOTE_VERIFY"
    action = (
        "The delivery is tried once more; then it has failed and is not tried again until "
        "`mxdeliver resume` or `mxdeliver run --date`."
    )
    tries = 2
    remedy = (
        "Ask the client whether something changes or moves files there; then `mxdeliver resume`."
    )


def peer_text(text: str | bytes, limit: int = 200) -> str:
    """Make a peer's words harmless: printable characters only, the rest escaped, cut to `limit`."""
    if isinstance(text, bytes):
        text = text[: limit * 4].decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text[:limit]
    shown = "".join(
        character if character.isprintable() else ascii(character)[1:-1]
        for character in text[:limit]
    )
    return shown[:limit]


def all_errors() -> Iterator[type[MxdeliverError]]:
    """Yield every class that has a code of its own, in the order of this page."""
    waiting: list[type[MxdeliverError]] = list(MxdeliverError.__subclasses__())
    found: list[type[MxdeliverError]] = []
    while waiting:
        error = waiting.pop()
        waiting += error.__subclasses__()
        if "code" in vars(error):
            found.append(error)
    order = {name: place for place, name in enumerate(globals())}
    yield from sorted(found, key=lambda error: order[error.__name__])
