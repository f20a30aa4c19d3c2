"""Symmetric ciphers and the one mode that OpenPGP's version 1 encryption and key protection use."""

from __future__ import annotations

from collections.abc import Callable

from cryptography.hazmat.primitives.ciphers import CipherAlgorithm, algorithms

try:
    from cryptography.hazmat.decrepit.ciphers.algorithms import CAST5, TripleDES
    from cryptography.hazmat.decrepit.ciphers.modes import CFB
except ImportError:  # before cryptography 47
    from cryptography.hazmat.primitives.ciphers.algorithms import CAST5, TripleDES
    from cryptography.hazmat.primitives.ciphers.modes import CFB

__all__ = ["AES_128", "CFB", "PROTECTION_CIPHERS", "SESSION_KEY_SIZES"]

AES_128 = 7
SESSION_KEY_SIZES = {7: 16, 8: 24, 9: 32}
"""Bytes of the key by OpenPGP's number for AES of 128, 192 and 256 bits."""

PROTECTION_CIPHERS: dict[int, tuple[Callable[[bytes], CipherAlgorithm], int, int]] = {
    2: (TripleDES, 24, 8),
    3: (CAST5, 16, 8),
    7: (algorithms.AES, 16, 16),
    8: (algorithms.AES, 24, 16),
    9: (algorithms.AES, 32, 16),
}
"""What secret keys are protected with, by number: constructor, key and block size in bytes."""
