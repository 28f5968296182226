"""Exit statuses, and the error that ends a command with one of them."""

from __future__ import annotations

from typing import Final

FAILED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
REFUSED: Final = 4
INTERRUPTED: Final = 130

EXIT_STATUSES: Final = """\
exit status:
  0    done
  1    it failed, or check found something wrong
  2    a flag, a variable or a setting is wrong
  3    the server cannot be reached
  4    the server refused
  74   the disk failed while writing; restart to recover
  130  interrupted
"""


class CommandError(Exception):
    """A command failed; the message is one line: what happened, and what to do."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status
