"""The three clients of the demo; none of them exists."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class KeyKind(Enum):
    """What a client's OpenPGP key is made of; the values are for people."""

    CURVE25519 = "Curve25519"
    RSA2048 = "RSA 2048"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoClient:
    """One client: its data's share of the sample, and the resources in which it has none at all."""

    guid: str
    name: str
    short_name: str
    key: KeyKind
    weight: float
    without: frozenset[str] = frozenset()

    @property
    def email(self) -> str:
        """An address under a domain that is reserved for examples."""
        return f"data@{self.short_name}.example"


CLIENTS = (
    DemoClient(
        guid="CLT-0858efd1-2d2e-6a5d-f2b5-c7dad42ef184",
        name="First Example Credit Union",
        short_name="first-example",
        key=KeyKind.CURVE25519,
        weight=2.0,
    ),
    DemoClient(
        guid="CLT-5b1e3a70-94c6-4d0b-8a2f-6f0d1c9be7a2",
        name="Banque de l'Étoile",
        short_name="etoile",
        key=KeyKind.RSA2048,
        weight=1.0,
        without=frozenset({"holdings", "goals", "devices"}),
    ),
    DemoClient(
        guid="CLT-c40d9e12-7f35-4e88-b6d1-03a5e2f8467c",
        name="Example Savings",
        short_name="savings",
        key=KeyKind.CURVE25519,
        weight=0.3,
        without=frozenset({"budgets", "goals", "taggings", "tags"}),
    ),
)
