"""Commits that may have been applied: what may be said of them until it is known."""

from __future__ import annotations

from maitred.server.stores.base import (
    Commit,
    Outcome,
    OutcomeUnknown,
    StoreError,
    StoreUnavailable,
)


class Doubts:
    """Remembers, by commit id, the commits whose outcome was told as unknown.

    Such a commit is not certainly absent because a later submission of it did not get through.
    """

    def __init__(self) -> None:
        self._open: set[bytes] = set()

    def weigh(
        self,
        commit: Commit,
        answer: Outcome | StoreError,
        *,
        vague: tuple[type[StoreError], ...] = (StoreUnavailable,),
    ) -> Outcome | StoreError:
        """Return what may be said of a commit whose submission had this answer.

        `vague` are the errors after which nobody has looked whether it was applied before.
        """
        if not commit.appends:
            return answer
        name = commit.appends[0].commit_id
        if isinstance(answer, OutcomeUnknown):
            self._open.add(name)
        elif name in self._open:
            if isinstance(answer, vague):
                return OutcomeUnknown(f"still unknown: {answer}")
            self._open.discard(name)
        return answer
