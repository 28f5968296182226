"""maitred token."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from maitred.server.app.pipeline.auth import ROLES, add_token, parse_expiry
from maitred.server.cli.words import show
from maitred.server.config import SettingsError


def token(arguments: argparse.Namespace) -> int:
    """Make a token, keep its digest, print it."""
    path = Path(arguments.tokens or os.environ.get("MAITRED_TOKENS") or "tokens.jsonl")
    expires_at = None
    if arguments.expires is not None:
        try:
            expires_at = parse_expiry(arguments.expires)
        except (ValueError, OverflowError):
            raise SettingsError(
                f"--expires {arguments.expires!r} is neither like 30d, 12h, 90m nor ISO 8601"
            ) from None
    made = add_token(path, arguments.name, ROLES[arguments.role], arguments.session, expires_at)
    print(made)
    show(
        f"digest appended to {path}; the token is shown only now; serve with --tokens {path}",
        file=sys.stderr,
    )
    return 0
