"""`golive-test`: one market entry of one contract to TradersPost, then its exit.

The last rung before `live`: it shows what no answer of TradersPost can, an order at the broker. The
entry is sent once, whatever becomes of it; the exit always follows. Nothing of a session is touched:
the attempts and their outcomes go to `golive-test.jsonl` in the journal directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from typing import Literal

import attrs
import click

from actors.wiring import VERSION, code_digest, library_versions
from adapters.calendar import CmeCalendar
from adapters.clock import SystemClock
from adapters.config import CALENDAR_OVERRIDES_FILE, Config, config_digest, find_config, load_config
from adapters.log import configure_logging, redact_tracebacks
from adapters.secret import WEBHOOK_VARIABLE
from adapters.sqlite.codec import Codec
from adapters.sqlite.directory import SqliteJournals
from adapters.traderspost.payload import build_payload
from adapters.traderspost.router import WebhookRouter
from domain.errors import OperatorError
from domain.events import (
    OrderAccepted,
    OrderAmbiguous,
    OrderNotSent,
    OrderRejected,
    OrderRequested,
    OrderSubmitted,
    Outcome,
    SessionOpened,
)
from domain.instruments import TradedRoot, parse_contract
from domain.orders import backoff_ns, signal_id
from domain.outbox import throttled_until
from domain.ports import OrderMessage, OrderPayload, Webhook
from domain.sessions import Session, iso_utc
from domain.units import MINUTE, SECOND, Nanos, Price, decimal_to_price

STRATEGY_NAME = "golive-test"
RECORD_NAME = "golive-test.jsonl"
EXIT_ATTEMPTS = 12
TIME_FOR_THE_EXIT = Nanos(10 * MINUTE)
"""Left before the close at least: a position must not stay over night because its exit came too late."""


@attrs.frozen(kw_only=True)
class GoliveRequest:
    """The options of `golive-test`, as given."""

    log_level: str
    contract: str
    config: Path | None
    overlay: tuple[Path, ...]
    price: str
    i_know_this_sends_an_order: bool
    yes: str | None


@attrs.frozen(kw_only=True)
class Pauses:
    """Waits in seconds: TradersPost keeps no order among signals of one ticker that follow each other closely."""

    before_exit_s: float = 15.0
    before_repeat_s: float = 20.0
    longest_retry_s: float = 30.0


@attrs.frozen(kw_only=True)
class Trial:
    """The entry and its exit, both built before the first byte leaves."""

    root: str
    entry_id: str
    exit_id: str
    entry: OrderMessage
    exit: OrderMessage


def golive_command(request: GoliveRequest) -> int:
    """Run `golive-test`: 0 when entry and exit were accepted, 1 otherwise.

    Raises OperatorError before anything is sent, also when it was not asked for twice.
    """
    redact_tracebacks()
    configure_logging(request.log_level, stream=sys.stderr)
    config = load_config(find_config(request.config, os.environ, Path.cwd()), request.overlay, os.environ).config
    router = router_of(config)
    now = SystemClock().now_ns
    trial = plan_trial(config, request.contract, request.price, now(), build_payload)
    click.echo(f"account   {config.account} (mode: {config.mode})")
    click.echo(f"webhook   {router!r}")
    click.echo(f"ticker    {trial.entry.ticker}")
    click.echo(f"entry     {trial.entry.body}")
    click.echo(f"exit      {trial.exit.body}")
    click.echo(f"The account must be flat in {trial.entry.ticker}: the exit closes all of a long position.")
    _confirm(request)
    journals = SqliteJournals(config.journal_dir, Codec())  # not beside a session on the same webhook
    try:
        record = Record(config.journal_dir / RECORD_NAME, now)
        return asyncio.run(run_trial(trial, webhook=router, record=record, now=now))
    finally:
        journals.release()


def router_of(config: Config) -> WebhookRouter:
    """The way to the webhook. Raises OperatorError for an account that is not said to be a paper one."""
    if config.webhook_url is None:
        raise OperatorError(
            "not set: there is nothing to send to",
            where=WEBHOOK_VARIABLE,
            fix="copy the address of the paper account's webhook from TradersPost; "
            "for a rehearsal start `python -m actors.main traderspost` and take its address",
        )
    if config.mode == "live" and not config.golive.paper_account:
        raise OperatorError(
            "mode: live, and nothing says that the webhook belongs to a paper account",
            where="golive.paper_account",
            fix="write `golive: {paper_account: true}` in the configuration of TradersPost's paper account, "
            "and never in another one",
        )
    return WebhookRouter(config.webhook_url.reveal(), is_live=config.mode == "live")


def plan_trial(config: Config, contract: str, price: str, now: Nanos, build: OrderPayload) -> Trial:
    """One contract bought at market and sold. Raises OperatorError for a contract or moment that cannot be traded."""
    session = CmeCalendar(CALENDAR_OVERRIDES_FILE).session_of(now, config.roots)
    root = _root_of(contract, config, session)
    hours = session.hours_of(root.root)
    if config.mode == "live" and not hours.open_ns <= now < hours.close_ns - TIME_FOR_THE_EXIT:
        raise OperatorError(
            f"{root.root} trades from {iso_utc(hours.open_ns)} to {iso_utc(hours.close_ns)}",
            where=contract,
            fix="come back when it is open, ten minutes before its close at the latest: the exit must find a market",
            exit_code=2,
        )
    id_of = partial(
        signal_id,
        session=session.date.isoformat(),
        strategy=STRATEGY_NAME,
        root=root.root,
        contract=contract,
        decided_ns=now,
        ordinal=0,
    )
    entry = OrderRequested(
        root=root.root,
        signal_id=id_of(intent="entry", side="buy"),
        contract=contract,
        intent="entry",
        side="buy",
        quantity=1,
        order_type="market",
        limit_price=None,
        reference_price=_price(price),
        decided_ns=now,
        bar_ns=Nanos(0),
        reason=STRATEGY_NAME,
    )
    exit = attrs.evolve(
        entry,
        signal_id=id_of(intent="exit", side="sell"),
        intent="exit",
        side="sell",
        entry_signal_id=entry.signal_id,
    )
    opened = _opening(config, session)
    return Trial(
        root=root.root,
        entry_id=entry.signal_id,
        exit_id=exit.signal_id,
        entry=build(entry, opened),
        exit=build(exit, opened),
    )


async def run_trial(
    trial: Trial, *, webhook: Webhook, record: Record, now: Callable[[], Nanos], pauses: Pauses | None = None
) -> int:
    """Send the entry once and then always the exit; 0 when both were accepted. A signal only ends a wait.

    Raises OperatorError when the entry cannot be put on record: then nothing is sent.
    """
    run = _Run(trial, webhook, record, now, pauses or Pauses())
    is_entered = is_closed = False
    entry = run.recorded_entry()
    try:
        is_entered = await run.enter(entry)
    finally:
        is_closed = await run.close()
        await webhook.close()
    return 0 if is_entered and is_closed else 1


class Record:
    """JSON lines, each on disk before the next step."""

    def __init__(self, path: Path, now: Callable[[], Nanos]) -> None:
        self._path, self._now, self._codec = path, now, Codec()

    def add(self, event: OrderSubmitted | Outcome) -> None:
        """Append `event`. Raises OSError."""
        payload = json.loads(self._codec.encode(event))
        line = json.dumps({"ts": iso_utc(self._now()), "type": type(event).__name__, "payload": payload})
        with self._path.open("a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())


class _Run:
    def __init__(
        self, trial: Trial, webhook: Webhook, record: Record, now: Callable[[], Nanos], pauses: Pauses
    ) -> None:
        self._trial, self._webhook, self._record, self._now, self._pauses = trial, webhook, record, now, pauses
        self._hurry = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._hurry.set)

    def recorded_entry(self) -> OrderSubmitted:
        """The one attempt of the entry, on disk."""
        trial = self._trial
        submitted = self._submitted("entry", trial.entry_id, 1, trial.entry, trial.entry.body)
        try:
            self._record.add(submitted)
        except OSError as error:
            raise OperatorError(
                f"cannot be written: {error.strerror}; nothing was sent", where=RECORD_NAME, fix="see to the disk"
            ) from error
        return submitted

    async def enter(self, submitted: OrderSubmitted) -> bool:
        """Send the entry, and wait as long as TradersPost needs to keep the exit behind it."""
        outcome = await self._post(submitted)
        _say(f"the exit follows in {self._pauses.before_exit_s:.0f} s, whatever became of the entry")
        await self._pause(self._pauses.before_exit_s)
        return isinstance(outcome, OrderAccepted)

    async def close(self) -> bool:
        """The exit until it is accepted, then once more: an accepted message may still be lost at the broker."""
        trial, body = self._trial, self._trial.exit.body
        for attempt in range(1, EXIT_ATTEMPTS + 1):
            outcome = await self._exit(attempt, body)
            if isinstance(outcome, OrderAccepted):
                _say(f"once more in {self._pauses.before_repeat_s:.0f} s: flat stays flat")
                await self._pause(self._pauses.before_repeat_s)
                await self._exit(attempt + 1, body)
                _say(
                    f"Now look at your broker: one {trial.entry.ticker} bought and sold, no position, no working order."
                )
                return True
            if isinstance(outcome, OrderRejected):
                if body == trial.exit.fallback or not trial.exit.fallback:
                    break
                body = trial.exit.fallback
            else:
                await self._pause(self._wait_s(outcome, attempt))
        _say(f"THE EXIT WAS NOT ACCEPTED. Look at your broker now, and close {trial.entry.ticker} by hand.")
        return False

    async def _exit(self, attempt: int, body: str) -> Outcome:
        submitted = self._submitted("exit", self._trial.exit_id, attempt, self._trial.exit, body)
        self._note(submitted)
        return await self._post(submitted)

    async def _post(self, submitted: OrderSubmitted) -> Outcome:
        outcome = await self._webhook.post(submitted, _at_once)
        self._note(outcome)
        _say(f"{submitted.intent} {submitted.attempt}: {_words(outcome)}")
        return outcome

    def _note(self, event: OrderSubmitted | Outcome) -> None:
        """On record if the disk lets us: an exit does not wait for it."""
        try:
            self._record.add(event)
        except OSError as error:
            _say(f"not on record ({error.strerror}): {type(event).__name__}")

    def _submitted(
        self, intent: Literal["entry", "exit"], id_: str, attempt: int, message: OrderMessage, body: str
    ) -> OrderSubmitted:
        return OrderSubmitted(
            root=self._trial.root,
            signal_id=id_,
            attempt=attempt,
            ticker=message.ticker,
            body=body,
            body_sha256=hashlib.sha256(body.encode()).hexdigest(),
            intent=intent,
            expires_ns=Nanos(self._now() + 30 * SECOND) if intent == "entry" else None,
        )

    def _wait_s(self, outcome: OrderNotSent | OrderAmbiguous, attempt: int) -> float:
        signal_of, longest_s = self._trial.exit_id, self._pauses.longest_retry_s
        if isinstance(outcome, OrderNotSent) and outcome.retry_after_s is not None:
            return outcome.retry_after_s
        if isinstance(outcome, OrderNotSent) and outcome.is_throttled:
            return (throttled_until(signal_of, attempt, self._now()) - self._now()) / SECOND
        return backoff_ns(signal_of, attempt, base_s=min(1.0, longest_s), cap_s=longest_s) / SECOND

    async def _pause(self, wait_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), wait_s)
        self._hurry.clear()


def _confirm(request: GoliveRequest) -> None:
    if not request.i_know_this_sends_an_order:
        raise OperatorError(
            "nothing was sent: this is what would be",
            where="golive-test",
            fix="give --i-know-this-sends-an-order when that is what you want",
            exit_code=2,
        )
    typed = request.yes
    if typed is None and sys.stdin.isatty():
        typed = click.prompt(f"Type {request.contract} to send the entry")
    if typed != request.contract:
        raise OperatorError(
            "nothing was sent: the contract was not confirmed",
            where="--yes",
            fix=f"type {request.contract} when asked, or give --yes {request.contract}",
            exit_code=2,
        )


def _root_of(contract: str, config: Config, session: Session) -> TradedRoot:
    """The traded root of `contract`, which must not have expired by its month."""
    by_product = {root.data_product: root for root in config.roots if not root.is_reference}
    name = parse_contract(contract, by_product, session.date)
    if name is None:
        raise OperatorError(
            f"{contract!r} is no contract of {', '.join(by_product)}",
            where="CONTRACT",
            fix=f"write it as the exchange does: {next(iter(by_product))}Z{session.date.year % 10}",
            exit_code=2,
        )
    if (name.expiry.year, name.expiry.month) < (session.date.year, session.date.month):
        raise OperatorError(
            f"{name.ticker} has expired", where="CONTRACT", fix="name the contract with most volume", exit_code=2
        )
    return by_product[name.product]


def _price(text: str) -> Price:
    try:
        return decimal_to_price(Decimal(text))
    except (InvalidOperation, ValueError, OverflowError) as error:
        raise OperatorError(
            f"{text!r} is no price",
            where="--price",
            fix="write the contract's last price, such as 5045.25",
            exit_code=2,
        ) from error


def _opening(config: Config, session: Session) -> SessionOpened:
    """What the payload wants to know of a session, without there being one."""
    return SessionOpened(
        session=session,
        segment=1,
        mode=config.mode,
        is_demo=False,
        account=config.account,
        clock="system",
        seed=0,
        version=VERSION,
        code_digest=code_digest(),
        config_digest=config_digest(config),
        libraries=library_versions(),
        strategy=attrs.evolve(config.strategy, name=STRATEGY_NAME, roots=()),
        risk=config.risk,
        roots=config.roots,
        contracts=(),
        feed_start_ns=Nanos(0),
    )


def _words(outcome: Outcome) -> str:
    match outcome:
        case OrderAccepted(http_status=status, external_id=id_):
            return f"accepted, which is no fill (HTTP {status}, id {id_})"
        case OrderRejected(http_status=status, code=code, message=message):
            return f"rejected (HTTP {status}, {code}: {message})"
        case OrderAmbiguous(cause=cause):
            return f"AMBIGUOUS, it may have been received: {cause}"
        case OrderNotSent(cause=cause):
            return f"not taken: {cause}"


async def _at_once() -> None:
    """The attempt is on record before its message is given to the webhook."""


def _say(text: str) -> None:
    """To the terminal, which may be gone: an exit does not depend on it."""
    with contextlib.suppress(OSError):
        click.echo(text)
