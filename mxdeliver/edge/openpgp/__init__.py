"""OpenPGP: which keys to encrypt to, and messages written, checked and read as streams.

    armor         a key file's text form → packets; names what is no key
    packets       headers, lengths, bodies in pieces
    keys          public key packets, and whether their algorithm protects
    signatures    signature packets, verified
    certificate   a certificate taken apart, and what its verified signatures say
    vetting       whether it is good enough, and which of its keys
    model         what certificates come to
    wrapping      session keys for recipients, through pgpy
    writer        MessageWriter
    check         MessageCheck
    secret_keys   load_secret_key
    reader        decrypt

pgpy never sees data, a client's file or a secret key: it is dormant, holds messages in memory
several times over, and believes signatures that it has not verified.
"""

from mxdeliver.edge.openpgp.check import MessageCheck
from mxdeliver.edge.openpgp.model import Certificate, EncryptionKey, Examination, KeyFacts
from mxdeliver.edge.openpgp.reader import decrypt
from mxdeliver.edge.openpgp.secret_keys import SecretKeyring, load_secret_key
from mxdeliver.edge.openpgp.vetting import SIZE_LIMIT, examine, vet
from mxdeliver.edge.openpgp.writer import MessageWriter

__all__ = [
    "SIZE_LIMIT",
    "Certificate",
    "EncryptionKey",
    "Examination",
    "KeyFacts",
    "MessageCheck",
    "MessageWriter",
    "SecretKeyring",
    "decrypt",
    "examine",
    "load_secret_key",
    "vet",
]
