"""`python -m mxdeliver` and the console script."""

from __future__ import annotations


def main() -> None:
    """Run the command line and exit with its status."""
    from mxdeliver.cli import command_line  # noqa: PLC0415 - nothing is imported before it is needed

    command_line()


if __name__ == "__main__":
    main()
