"""Errors, split by blame (who must act, not where they were raised).

* `OurError`: a bug or a corrupt journal. The process stops; nothing is guessed.
* `OperatorError`: the configuration or the command line. Refuse to start, saying
  what is wrong, where, and how to fix it.

What a vendor gets wrong is no exception: it is an event, and the system degrades.
"""

from __future__ import annotations


class RooneyError(Exception):
    """Root of every error this project raises on purpose."""


class OurError(RooneyError):
    """A broken promise of our own: a bug, or state that must not exist."""


class OperatorError(RooneyError):
    """Something only the operator can mend.

    `where` is a file (with line and column where known), an option or a variable;
    `fix` says what to do. `exit_code` follows sysexits: 78 is configuration.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "", exit_code: int = 78) -> None:
        self.what, self.where, self.fix, self.exit_code = what, where, fix, exit_code
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  fix: {self.fix}" if self.fix else text


class JournalError(RooneyError):
    """A journal file that cannot be trusted as it is."""


class JournalUnreadable(JournalError):
    """Not a journal, cut off, or of a newer format."""


class JournalBroken(JournalError):
    """Readable, but the chain, the order or the head is wrong at `seq`."""

    def __init__(self, message: str, *, seq: int) -> None:
        self.seq = seq
        super().__init__(message)


class JournalWriteFailed(OurError):
    """A commit failed. What was committed before stays; nothing after it left the process."""
