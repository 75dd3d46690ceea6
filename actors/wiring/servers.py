"""`gateway` and `traderspost`: the local ends of a session."""

from __future__ import annotations

import datetime as dt
import re
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
    from adapters.config import CONTRACT_MAP_FILE
    from adapters.contract_map import load_contract_map
    from adapters.traderspost.broker import Subscription
    from adapters.traderspost.local_server import LocalTradersPost, run_traderspost

    configure_logging(log_level, stream=sys.stderr)
    specs = [(root.order_product, root.order_spec) for root in load_contract_map(CONTRACT_MAP_FILE).traded]
    server = LocalTradersPost(
        uuid=options["uuid"],
        password=options["password"],
        clock=options["clock"],
        unavailable_roots=options["unavailable"],
        faults=options["faults"],
        subscription=Subscription(
            is_enabled=not options["disabled"],
            is_adding=options["adds"],
            is_reversing=not options["no_reversals"],
            sides=options["sides"],
            is_cancelling=options["cancels_orders"],
            cancel_wait_s=options["cancel_wait"],
        ),
        fills=options["fills"],
        race_s=_race_s(options["race"]),
        seed=options["seed"],
        point_values_usd={product: spec.multiplier for product, spec in specs if spec.currency == "USD"},
        state=options["state"],
    )
    run_traderspost(server, options["port"])


def _race_s(text: str) -> tuple[float, float]:
    match = re.fullmatch(r"(?:(\d{1,4}(?:\.\d{1,3})?)-)?(\d{1,4}(?:\.\d{1,3})?)", text)
    shortest, longest = (float(match[1] or 0), float(match[2])) if match else (1.0, 0.0)
    if shortest > longest:
        raise OperatorError(
            f"{text!r} is no span of time", where="--race", fix="write seconds, as 30 or 5-30", exit_code=2
        )
    return shortest, longest
