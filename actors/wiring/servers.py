"""`gateway` and `traderspost`: the local ends of a session."""

from __future__ import annotations

import datetime as dt
import sys
from typing import Any

from adapters.log import configure_logging
from domain.errors import OperatorError


def gateway_command(log_level: str, **options: Any) -> int:
    """Run the gateway until a signal; the exit code."""
    from adapters.databento.gateway import GatewayRequest, parse_speed, run_gateway

    configure_logging(log_level, stream=sys.stderr)
    trades = {} if options["trades"] is None else {"trades_per_session": options["trades"]}
    request = GatewayRequest(
        files=options["files"],
        simulate=options["simulate"],
        seed=options["seed"],
        session=_date(options["session"]),
        sessions=options["sessions"],
        speed=None if options["speed"] is None else parse_speed(options["speed"]),
        start_at=options["start_at"],
        rebase=options["rebase"],
        **trades,
    )
    return run_gateway(request, port=options["port"], key=options["key"], faults=options["faults"])


def _date(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise OperatorError(f"{text!r} is no date", where="--session", fix="write 2024-05-01", exit_code=2) from error


def traderspost_command(log_level: str, **options: Any) -> None:
    """Run the local TradersPost until a signal."""
    from adapters.traderspost.local_server import run_traderspost

    configure_logging(log_level, stream=sys.stderr)
    run_traderspost(
        options["port"],
        uuid=options["uuid"],
        password=options["password"],
        clock=options["clock"],
        unavailable_roots=options["unavailable"],
        faults=options["faults"],
    )
