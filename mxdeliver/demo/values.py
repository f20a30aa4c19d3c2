"""What the sample records say, column by column: SQL expressions that look like a bank's data.

Every expression draws from `key`, a hash of (client, resource, number of the record), so the same
client and day always get the same records. `moment` is the Unix second at which the record's event
happened; `row_…` are the columns that every table has. Nothing here describes a real person, account or merchant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from zlib import crc32

GUID_PREFIXES = {
    "account": ("ACT", "accounts"),
    "app": ("APP", "apps"),
    "beat": ("BET", "beat"),
    "category": ("CAT", "categories"),
    "device": ("DEV", "devices"),
    "discovered_account": ("DAC", "discovered_accounts"),
    "entity": ("ACT", "accounts"),
    "institution": ("INS", "institutions"),
    "member": ("MBR", "members"),
    "merchant": ("MCH", "merchants"),
    "merchant_location": ("MCL", "merchant_locations"),
    "parent": ("CAT", "categories"),
    "primary_account": ("ACT", "accounts"),
    "primary_transaction": ("TRN", "transactions"),
    "tag": ("TAG", "tags"),
    "transaction": ("TRN", "transactions"),
    "user": ("USR", "users"),
}
"""What `{key}_guid` points to: the guid's prefix, and the resource whose records it numbers."""

OWN_PREFIXES = {"budgets": "BGT", "goals": "GOL", "holdings": "HOL", "taggings": "TGN"} | {
    resource: prefix for prefix, resource in GUID_PREFIXES.values()
}
"""The prefix of a resource's own guids; any other resource takes its first three letters."""

_CATEGORIES = (
    "Groceries", "Restaurants", "Coffee Shops", "Rent", "Paycheck", "Gas", "Utilities", "Travel",
    "Pharmacy", "Clothing", "Transfer", "Credit Card Payment", "Überweisung", "Épicerie",
)  # fmt: skip
_MERCHANTS = (
    "Example Market", "Café Crème", "Corner Bakery", "Müller & Söhne", "Transit Authority", "東京ラーメン",
    "Green Pharmacy", "Łódź Books", "City Water", "Piñata Party Supply", "Sample Airlines", "Ørsted Power",
)  # fmt: skip
_WORDS: Mapping[str, Sequence[str]] = {
    "account_subtype": ("CHECKING", "SAVINGS", "MONEY_MARKET", "CREDIT_CARD", "MORTGAGE"),
    "account_type": ("CHECKING", "SAVINGS", "CREDIT_CARD", "LOAN", "MORTGAGE", "INVESTMENT"),
    "action": ("tap", "open", "swipe", "dismiss", "submit"),
    "app_version": ("4.1.0", "4.1.2", "4.2.0", "5.0.0-beta"),
    "category": _CATEGORIES,
    "category_name": _CATEGORIES,
    "comments": ("Very helpful", "Merci beaucoup", "not for me", "👍"),
    "connection_status": ("CONNECTED", "CONNECTED", "CHALLENGED", "DENIED", "DISCONNECTED"),
    "created_by": ("USER", "SYSTEM"),
    "currency_code": ("USD", "USD", "USD", "EUR", "CAD", "JPY"),
    "data_source": ("ios", "android", "web"),
    "equity_classification": ("LARGE_GROWTH", "LARGE_VALUE", "MID_BLEND", "SMALL_VALUE"),
    "extended_transaction_type": ("debit", "credit", "transfer", "fee"),
    "first_name": ("Ada", "Zoë", "José", "Łukasz", "Mei", "Noor", "Søren", "Grace", "Ömer", "美咲"),
    "fixed_income_classification": ("GOVERNMENT", "CORPORATE", "MUNICIPAL"),
    "goal_type_name": ("SAVING_FOR_VACATION", "EMERGENCY_FUND", "HOUSE", "PAY_OFF_DEBT"),
    "holding_type": ("EQUITY", "MUTUAL_FUND", "EXCHANGE_TRADED_FUND", "FIXED_INCOME", "CASH"),
    "host": ("money.first.example", "app.bank.example"),
    "institution_code": ("example_cu", "sample_bank", "exemple_fr"),
    "institution_name": ("Example Credit Union", "Sample Bank", "Banque Exemple"),
    "label": ("budget_wheel", "net_worth", "spending_by_month"),
    "last_name": (
        "Example",
        "Beispiel",
        "García",
        "Nguyễn",
        "Kowalski",
        "O'Sample",
        "Åkesson",
        "山田",
    ),
    "meta_type": ("VACATION", "OTHER"),
    "model": ("Phone 12", "Phone 15 Pro", "Tablet Air", "Pixelated 8"),
    "name": ("Everyday", "Household", "Café budget", "Rainy day", "Résumé", "Main account"),
    "nickname": ("Joint", "Mine", "Für Notfälle"),
    "notification_type_name": ("LOW_BALANCE", "LARGE_DEPOSIT", "BUDGET_EXCEEDED"),
    "operating_system": ("iOS", "Android"),
    "operating_system_version": ("15", "16.4", "17.0.1"),
    "original_description": _MERCHANTS,
    "path": ("/accounts", "/transactions", "/budgets/new", "/goals?sort=date"),
    "property_type": ("REAL_ESTATE", "VEHICLE"),
    "rating": ("thumbs_up", "thumbs_down"),
    "status": ("POSTED", "POSTED", "POSTED", "PENDING"),
    "symbol": ("EXMP", "SMPL", "TEST", "DEMO"),
    "tag_name": ("business", "réimbursement", "vacation"),
    "template": ("MonthlySpend", "SubscriptionPriceIncrease", "DuplicateCharge"),
    "title": ("You spent less this month", "A charge appears twice", "Neues Abonnement"),
    "top_level_category": ("Food & Dining", "Home", "Income", "Auto & Transport", "Transfer"),
    "transaction_type": ("DEBIT", "DEBIT", "DEBIT", "CREDIT"),
    "user_agent": ("Mozilla/5.0 (Macintosh)", "Mozilla/5.0 (Windows NT 10.0)", "MobileApp/5.0"),
}
_MOSTLY_EMPTY = {
    "check_number": 94, "check_number_string": 94, "comments": 80, "connection_status_message": 90,
    "death_benefit": 97, "cash_surrender_value": 97, "feed_check_number": 94, "metadata": 85,
    "memo": 70, "localized_memo": 90, "nickname": 70, "feed_latitude": 60, "feed_longitude": 60,
    "latitude": 60, "longitude": 60, "property_type": 95, "parent_guid": 60, "completed_at": 80,
    "bond_maturity_date": 80, "bond_coupon_rate": 80, "matures_on": 85,
}  # fmt: skip
"""How many of a hundred records have no value in the column; the others: 4."""


def roll(column: str) -> str:
    """Give a number of 64 bits that depends on the record and the column alone."""
    return f"hash(xor(key, {crc32(column.encode())}::UBIGINT))"


def reference(prefix: str, resource: str, number: str) -> str:
    """Give the guid of the record `number` of `resource` of this row's client."""
    return f"'{prefix}-' || md5(concat(row_client, '{resource}', {number}))::UUID::VARCHAR"


def value(resource: str, name: str, kind: object, records: Mapping[str, int]) -> str:
    """Give the SQL expression of one column; `records` counts each resource's records per client.

    `kind` is the column's Avro type without its null branch.
    """
    if name == "guid":
        return reference(own_prefix(resource), resource, "number")
    if name in _STANDING:
        return _STANDING[name]
    expression = _by_name(name, kind, records) or _BY_TYPE[str(kind)](name)
    if name.endswith("_guid") and name not in _MOSTLY_EMPTY:
        return expression
    return (
        f"CASE WHEN {roll(name + '?')} % 100 >= {_MOSTLY_EMPTY.get(name, 4)} THEN {expression} END"
    )


def own_prefix(resource: str) -> str:
    """Give the prefix of the resource's own guids."""
    return OWN_PREFIXES.get(resource, resource[:3].upper())


def _by_name(name: str, kind: object, records: Mapping[str, int]) -> str | None:
    if isinstance(kind, dict):  # an array of references
        return _references(name, records)
    if name.endswith("_guid") and name.removesuffix("_guid") in GUID_PREFIXES:
        prefix, resource = GUID_PREFIXES[name.removesuffix("_guid")]
        return reference(prefix, resource, f"({roll(name)} % {max(records.get(resource, 50), 1)})")
    bare = name.removeprefix("feed_").removeprefix("localized_")
    if kind == "string" and bare in _WORDS:
        return _pick(name, _WORDS[bare])
    return _SPECIAL[bare](name) if bare in _SPECIAL else None


def _references(name: str, records: Mapping[str, int]) -> str:
    prefix, resource = GUID_PREFIXES.get(name.rpartition("_")[0], GUID_PREFIXES["account"])
    one, two = (
        reference(prefix, resource, f"({roll(name + place)} % {max(records.get(resource, 50), 1)})")
        for place in ("first", "second")
    )
    return f"CASE {roll(name)} % 3 WHEN 0 THEN []::VARCHAR[] WHEN 1 THEN [{one}] ELSE [{one}, {two}] END"


def _pick(name: str, words: Sequence[str]) -> str:
    listed = ", ".join("'" + word.replace("'", "''") + "'" for word in words)
    return f"[{listed}][1 + ({roll(name)} % {len(words)})::INTEGER]"


def _whole(name: str, below: int, start: int = 0) -> str:
    return f"({start} + ({roll(name)} % {below})::BIGINT)"


def _money(name: str, below: int) -> str:
    return f"(({roll(name)} % {below * 100})::BIGINT / 100)::DOUBLE"


def _signed(name: str, span: int, digits: int) -> str:
    scale = 10**digits
    return f"((({roll(name)} % {2 * span * scale})::BIGINT - {span * scale}) / {scale})::DOUBLE"


def _near(name: str) -> str:
    return f"(moment - ({roll(name)} % 259200)::BIGINT)"


def _day(name: str, first: str, days: int) -> str:
    return f"strftime(DATE '{first}' + ({roll(name)} % {days})::INTEGER, '%Y-%m-%d')"


def _text(name: str) -> str:
    if name.endswith("_id") or name == "id":
        return f"'P' || {_whole(name, 900_000_000, 100_000_000)}"
    if name.endswith(("_on", "_date")):
        return _day(name, "2020-01-01", 4000)
    if name.endswith("_set_by"):
        return _pick(name, ("MX", "USER", "FEED"))
    return _pick(name, _MERCHANTS)


def _long(name: str) -> str:
    if name.endswith(("_at", "_on")):
        return _near(name)
    return _whole(name, 4 if name.endswith("_set_by") else 40)


_BY_TYPE: Mapping[str, Callable[[str], str]] = {
    "string": _text,
    "long": _long,
    "int": _long,
    "double": lambda name: _money(name, 5_000),
    "boolean": lambda name: f"({roll(name)} % 100 < 15)",
}
_SPECIAL: Mapping[str, Callable[[str], str]] = {
    "account_number": lambda name: f"'****' || {_whole(name, 9000, 1000)}",
    "amount": lambda name: _money(name, 400),
    "apr": lambda name: _money(name, 25),
    "apy": lambda name: _money(name, 5),
    "bond_coupon_rate": lambda name: _money(name, 8),
    "birthday": lambda name: _day(name, "1945-01-01", 22_000),
    "check_number": lambda name: f"'' || {_whole(name, 9000, 1000)}",
    "credit_score": lambda name: _whole(name, 330, 520),
    "date": _near,
    "day_payment_is_due": lambda name: _whole(name, 28, 1),
    "description": lambda name: (
        f"{_pick(name, _MERCHANTS)} || ' #' || {_whole(name + '#', 900, 100)}"
    ),
    "digest": lambda name: f"md5({roll(name)}::VARCHAR)",
    "duration": lambda name: _whole(name, 180_000),
    "email": lambda name: f"'person' || {_whole(name, 10_000_000)} || '@mail.example'",
    "gender": lambda name: _whole(name, 2),
    "interest_rate": lambda name: _money(name, 25),
    "latitude": lambda name: _signed(name, 60, 5),
    "longitude": lambda name: _signed(name, 180, 5),
    "merchant_category_code": lambda name: _whole(name, 6000, 3000),
    "metadata": lambda name: f"'{{\"segment\": ' || {_whole(name, 12)} || '}}'",
    "phone": lambda name: f"'555-01' || lpad(({roll(name)} % 100)::VARCHAR, 2, '0')",
    "postal_code": lambda name: f"lpad(({roll(name)} % 100000)::VARCHAR, 5, '0')",
    "revision": lambda name: _whole(name, 9, 1),
    "routing_number": lambda name: f"lpad(({roll(name)} % 1000000)::VARCHAR, 9, '0')",
    "session_id": lambda name: f"md5({roll(name)}::VARCHAR)::UUID::VARCHAR",
}
_STANDING = {
    "client_guid": "row_client",
    "created_at": "row_created",
    "updated_at": "row_updated",
    "deleted_at": "row_deleted",
    "is_deleted": "row_deleted IS NOT NULL",
    "posted_at": "moment",
    "transacted_at": "moment",
}
