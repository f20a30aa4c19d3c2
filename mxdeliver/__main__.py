"""`python -m mxdeliver` and the console script."""

from __future__ import annotations

import gc

from mxdeliver.interpreter import settle


def main() -> None:
    """Run the command line and exit with its status."""
    settle()
    from mxdeliver.cli import command_line, process  # noqa: PLC0415 - nothing before it is needed

    process.guard_streams()
    try:
        command_line()
    finally:
        # Python would look for garbage among all of it before the process gives it back.
        gc.freeze()


if __name__ == "__main__":
    main()
