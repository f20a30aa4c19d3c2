"""Which deliveries are due; attempts and waits; clients side by side; the stop flag.

    owed     what a run chooses: by the ledger, or by the days that a person names
    places   clients side by side on a bounded number of places
    turns    one client's turn: attempts, waits, and what an error means for the client's other days

Three paths lead here and are one: `run` from cron or a timer, `run --date` by hand, `schedule` as a
daemon. The ledger says what is due. A client's days are delivered one after the other, oldest first;
clients go side by side, and one client's failure stays its own.
"""

from mxdeliver.worker.owed import run_days, run_due
from mxdeliver.worker.places import Renew, Report, Skipped

__all__ = ["Renew", "Report", "Skipped", "run_days", "run_due"]
