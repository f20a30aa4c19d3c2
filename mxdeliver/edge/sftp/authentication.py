"""Logging in: each credential is tried at most once, so that no account is locked by retries.

Called only after the host key matched a pin. There is no agent, no search for keys, and no guess.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from paramiko import ECDSAKey, Ed25519Key, RSAKey, SSHException
from paramiko.pkey import PKey

from mxdeliver.core.errors import (
    AuthChangeRequired,
    AuthFailed,
    AuthMethod,
    ConnectionLost,
    MxdeliverError,
    SecretMissing,
    SessionLimit,
    Stalled,
    StopRequested,
    peer_text,
)
from mxdeliver.core.secret import Secret
from mxdeliver.edge.sftp.handshake import Connection
from mxdeliver.edge.sftp.model import Credentials
from mxdeliver.edge.sftp.transport import LoginHandler, LoginReply

_KEY_CLASSES: tuple[type[PKey], ...] = (Ed25519Key, ECDSAKey, RSAKey)
_TOO_MANY_CONNECTIONS = 12  # RFC 4253 section 11.1


def load_private_key(secret: Secret, passphrase: Secret | None) -> PKey:
    """Read a private key (ed25519, ecdsa, rsa; OpenSSH's format or PEM); raises SecretMissing."""
    try:
        text = secret.reveal_text()
        words = passphrase.reveal_text() if passphrase is not None else None
    except UnicodeDecodeError:
        raise _unreadable() from None
    for kind in _KEY_CLASSES:
        try:
            return kind.from_private_key(io.StringIO(text), password=words)
        except (SSHException, ValueError, TypeError, IndexError):
            continue  # another type's key, a wrong passphrase or no key: no difference is told
    raise _unreadable()


def _unreadable() -> SecretMissing:
    return SecretMissing(
        "`sftp.private_key` is not a private key that can be read, or its passphrase is wrong"
    )


def authenticate(
    connection: Connection,
    username: str,
    credentials: Credentials,
    *,
    seconds: float,
    ahead: bool = False,
) -> None:
    """Log in within `seconds`, the private key first, then the password.

    `ahead` saves round trips: the first request does not wait for the login service, and asks for
    the methods only where there is a choice.

    Raises AuthFailed, AuthMethod, AuthChangeRequired, SecretMissing, SessionLimit, StopRequested;
    ConnectionLost and Stalled only before a credential was sent to a server that takes logins:
    whatever breaks the login after that counts as a refusal.
    """
    key = None
    if credentials.private_key is not None:
        key = load_private_key(credentials.private_key, credentials.passphrase)
    login = _Login(connection, username, key, credentials.password, ahead=ahead)

    def late() -> MxdeliverError:
        return Stalled(f"{connection.place} did not finish the login within {seconds:g} s")

    with connection.watchdog.limit(seconds, late):
        login.run()


class _Login:
    """One login: which methods the server takes now, and which credentials are left."""

    def __init__(
        self,
        connection: Connection,
        username: str,
        key: PKey | None,
        password: Secret | None,
        *,
        ahead: bool,
    ) -> None:
        self._connection = connection
        self._username = username
        self._key = key
        self._password = password
        self._ahead = ahead
        self._unasked: Secret | None = None
        self._refused = False
        self._sent = False
        self._prompts: list[str] = []

    def run(self) -> None:
        reply = self._begin()
        while not reply.success:
            if reply.change_required:
                raise AuthChangeRequired(f"{self._who} must change the password before logging in")
            reply = self._next(reply.methods)

    def _begin(self) -> LoginReply:
        """Ask which methods the server takes, or try the only credential if that saves a round trip.

        With an RSA key the server's list of signature algorithms must have come before.
        """
        only_key = self._key is not None and self._password is None
        if not self._ahead or not only_key or isinstance(self._key, RSAKey):
            return self._ask(lambda handler: handler.send_auth_request(self._username, "none"))
        reply = self._next(("publickey",))
        # A server that takes no keys has not looked at this one.
        self._refused = self._refused and "publickey" in reply.methods
        return reply

    @property
    def _who(self) -> str:
        return f"{self._username} on {self._connection.place}"

    def _next(self, methods: tuple[str, ...]) -> LoginReply:
        """Try the next credential that the server takes now; each is used up by that."""
        if self._key is not None and "publickey" in methods:
            key, self._key = self._key, None
            return self._once(lambda handler: handler.auth_publickey(self._username, key))
        if self._password is not None and "password" in methods:
            password, self._password = self._password, None
            return self._once(
                lambda handler: handler.auth_password(self._username, password.reveal()),  # type: ignore[arg-type] # bytes as they are, UTF-8 or not
            )
        if self._password is not None and "keyboard-interactive" in methods:
            self._unasked, self._password = self._password, None
            return self._once(
                lambda handler: handler.auth_interactive(self._username, self._answer),
                sends_credential=False,  # that is for `_answer` to do
            )
        if self._refused:
            raise AuthFailed(f"{self._who}: the login was refused")
        offered = ", ".join(peer_text(method) for method in methods) or "nothing"
        raise AuthMethod(
            f"{self._who}: the server asks for {offered}, which is not configured or not supported"
        )

    def _once(
        self, request: Callable[[LoginHandler], object], *, sends_credential: bool = True
    ) -> LoginReply:
        reply = self._ask(request, sends_credential=sends_credential)
        self._refused = self._refused or not (reply.success or reply.partial)
        return reply

    def _answer(self, title: str, instructions: str, prompts: list[tuple[str, bool]]) -> list[Any]:
        """Answer one hidden prompt with the password's bytes; raise at anything else."""
        if not prompts:
            return []
        self._prompts = [title, instructions, *(text for text, _ in prompts)]
        if self._unasked is None or len(prompts) != 1 or prompts[0][1]:
            raise SSHException("unsupported prompts")
        password, self._unasked, self._prompts = self._unasked, None, []
        self._sent = True
        return [password.reveal()]

    def _ask(
        self, request: Callable[[LoginHandler], object], *, sends_credential: bool = False
    ) -> LoginReply:
        transport = self._connection.transport
        try:
            if self._ahead:
                transport.request_logins()
            else:
                transport.ensure_session()
            handler = transport.auth_handler
            assert isinstance(handler, LoginHandler)  # noqa: S101 - made by `get_auth_handler`
            self._sent = self._sent or sends_credential
            reply = request(handler)
            transport.ensure_session()
        except (SSHException, OSError, EOFError) as error:
            raise self._failure(error) from error
        assert isinstance(reply, LoginReply)  # noqa: S101 - see LoginHandler.send_auth_request
        return reply

    def _failure(self, error: Exception) -> MxdeliverError:
        connection = self._connection
        if isinstance(error, EOFError):
            connection.transport.hear_out()
        ended = connection.watchdog.failure
        if isinstance(ended, StopRequested):
            return ended
        if ended is None and self._prompts:
            return self._unsupported_prompts()
        code, text = connection.transport.disconnected or (0, "")
        if code == _TOO_MANY_CONNECTIONS:
            return SessionLimit(f"{connection.place} ended the connection: {text}")
        said = f" ({text})" if text else ""
        if ended is None and isinstance(error, SSHException) and connection.transport.is_active():
            return AuthMethod(f"{self._who}: the server takes no signature of this type of key")
        if self._sent and connection.transport.takes_logins:
            # Trying again could lock the account: the server may have counted a failed login.
            how = "hung up instead of answering" if ended is None else "did not answer in time"
            return AuthFailed(f"{self._who}: the server {how} after the credential was sent{said}")
        return ended or ConnectionLost(
            f"{connection.place}: the connection broke during the login{said}"
        )

    def _unsupported_prompts(self) -> MxdeliverError:
        words = " ".join(self._prompts).lower()
        if "new password" in words or "expired" in words:
            return AuthChangeRequired(f"{self._who} must change the password before logging in")
        asked = peer_text(" / ".join(filter(None, self._prompts)))
        return AuthMethod(f"{self._who}: the server asks for more than a password: {asked}")
