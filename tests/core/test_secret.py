import copy
import json
import logging
import pickle
import traceback

import pytest

from mxdeliver.core.secret import Secret, SecretKind, SecretReference

VALUE = "correct-horse-Ⅳ"


@pytest.fixture
def secret():
    return Secret(VALUE.encode())


def test_a_secret_reveals_itself_only_when_asked(secret):
    assert secret.reveal() == VALUE.encode()
    assert secret.reveal_text() == VALUE


@pytest.mark.parametrize(
    "show",
    [str, repr, "{}".format, "{!r}".format, "{!a}".format, "{:>40}".format,
     lambda secret: "%s %r" % (secret, secret),  # noqa: UP031 - this is how old code formats
     lambda secret: str([secret]), lambda secret: str({"password": secret}),
     lambda secret: str(ValueError(secret))],
)  # fmt: skip
def test_no_way_of_printing_reveals_it(secret, show):
    try:
        shown = show(secret)
    except TypeError as error:
        shown = str(error)
    assert "horse" not in shown


def test_a_traceback_and_a_log_line_do_not_reveal_it(secret, caplog):
    logging.getLogger("test").warning("logging in with %s %r", secret, secret)
    assert "horse" not in caplog.text
    with pytest.raises(ValueError, match="Secret") as raised:
        fail_with(secret)
    shown = traceback.TracebackException.from_exception(raised.value, capture_locals=True)
    assert "password = Secret(…)" in "".join(shown.format())
    assert "horse" not in "".join(shown.format())


def fail_with(password):
    raise ValueError(password)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_secret_is_not_pickled(secret, protocol):
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(secret, protocol)


def test_a_secret_is_neither_copied_nor_made_json(secret):
    with pytest.raises(TypeError):
        copy.deepcopy(secret)
    with pytest.raises(TypeError, match="not JSON serializable"):
        json.dumps({"password": secret})
    assert not hasattr(secret, "__dict__")


def test_a_version_tells_values_apart_without_revealing_them(secret):
    version = secret.version(b"key one")
    assert version == Secret(VALUE.encode()).version(b"key one")
    assert version != Secret(b"another").version(b"key one")
    assert version != secret.version(b"key two")
    assert len(version) == 64
    assert "horse" not in version


def test_a_reference_shows_where_the_secret_is_kept():
    reference = SecretReference(kind=SecretKind.ENVIRONMENT, name="SFTP_PASSWORD")
    assert str(reference) == "{env: SFTP_PASSWORD}"
