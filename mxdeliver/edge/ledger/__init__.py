"""What was delivered, what is owed, what waits and why: the program's memory, in SQL.

One row for each client, day and revision; unique. A delivery is in one of five states:

| state     | next `run`      | `run --date`             | after a change        | `resume` |
|-----------|-----------------|--------------------------|-----------------------|----------|
| waiting   | at `not_before` | at once                  | at once               | at once  |
| running   | no              | no                       | no                    | no       |
| parked    | no              | no                       | within the window: yes | yes      |
| failed    | no              | yes, with a new deadline | no                    | yes      |
| delivered | no              | no                       | no                    | no (`resend`) |

A change is one of the client's configuration, key, secret or schema: the caller sums them up in a
*context*, a text that the ledger keeps with each attempt and compares. `running` whose process is
gone counts as `waiting`. Only the latest revision of a day is ever due.

The ledger owes a client each closed day from the later of `active_since` (without one: the day
before the client was first seen) and `catch_up_days` before the client was first seen. A day that
leaves the window of the last `catch_up_days` closed days undelivered becomes failed (DEADLINE),
once: what a person asks for afterwards (`--date`, `resume`, `resend`) ends by its deadline alone.

What was read back from the spool into a lost ledger, or is sealed there although the ledger never
heard of an attempt (it was restored from a backup), is *in doubt*: it is looked for on the client's
server, and nothing of it is sent before a person has decided.

A lease is a lock that the kernel gives back with the process, and a token that grows with every
claim; each write of a lease first makes sure that the token is still its own. Nothing here is
written before it has happened, except intentions: temporary names and names about to be renamed.

Reading order: `tables`, `waiting` (for the locks of others), `database` (opening, dialects,
errors), `locks`, `rows`, `leftovers` (what attempts may have left in part), `planning`, `servers`
(what each client's server allows), `direct` (files written under their final names), `standing`
(what a push must know of all that), `stages` (how far files are), `lease`, `claims` (how a lease
begins), `requests` (what people ask for), `listing` (many at once), `book` (the ledger itself),
`damage` (whether it is whole), `rebuilding` (a lost one).
"""

from mxdeliver.edge.ledger.book import Ledger
from mxdeliver.edge.ledger.direct import HalfWritten
from mxdeliver.edge.ledger.disk import require_place
from mxdeliver.edge.ledger.lease import Lease
from mxdeliver.edge.ledger.leftovers import LeftBehind
from mxdeliver.edge.ledger.rebuilding import Rebuilt, rebuild
from mxdeliver.edge.ledger.rows import (
    FileStage,
    FileState,
    HistoryEntry,
    PublishEvidence,
)
from mxdeliver.edge.ledger.servers import Publishing, ServerProfile
from mxdeliver.edge.ledger.standing import Standing

__all__ = [
    "FileStage",
    "FileState",
    "HalfWritten",
    "HistoryEntry",
    "Lease",
    "Ledger",
    "LeftBehind",
    "PublishEvidence",
    "Publishing",
    "Rebuilt",
    "ServerProfile",
    "Standing",
    "rebuild",
    "require_place",
]
