"""The risk gate: pure rules that allow or refuse an entry, each refusal with its reason.

No rule refuses an exit but the kill switch set to `all`. A verdict is a type of its
own, never a tuple used as a truth value (the predecessor's limit always allowed).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Literal

import attrs

from domain.outbox import BreakerState
from domain.units import SECOND, Price

KillSwitch = Literal["off", "entries", "all"]
Command = Literal["enable", "disable", "halt", "resume", "flatten", "kill", "stop", "resolve"]


@attrs.frozen(kw_only=True)
class RiskSettings:
    """Limits of the account. A None is no limit; `mode: live` demands the ones that keep an account alive."""

    max_positions: int = 4
    """Roots held or being entered at the same time; UNKNOWN counts as held."""
    max_contracts: int = 20
    """Contracts of all roots together, held or being entered."""
    max_contracts_per_root: int = 10
    max_margin_usd: Decimal | None = None
    """Sum of the contract map's `initial_margin_usd` over all contracts held or being entered."""
    daily_loss_usd: Decimal | None = None
    """Realised and open loss of one session at which entries end."""
    daily_loss_action: Literal["flatten", "block"] = "flatten"
    max_entries_per_hour: int = 60
    price_band_pct: Decimal = Decimal(2)
    """An entry's price may differ by this much from the last one known of its contract."""
    last_minutes: int = 5
    """No entries this long before the root's close."""
    entry_freshness_s: int = 60
    """An entry is allowed only this long after its bar's end, by the record's own time."""
    entry_time_limit_s: int = 30
    """An entry not sent by then expires (never more than a quarter of the decision bar)."""
    unknown_policy: Literal["flat", "hold"] = "flat"
    """What becomes of a position that may or may not exist: closed on its side, or left to the operator."""
    unknown_flat_after_s: int = 60
    stale_flatten_s: int | None = None
    """A feed, or a held root, that has not been live for this long closes what is held."""
    feed_lag_s: int = 15
    """In real time: records that come this late make the feed stale."""
    market_silent_s: int = 120
    """No trade in any root for this long of an open session ends entries until the next one."""
    quiet_root_s: int = 600
    """A root that usually trades every minute or two and has not for this long, while others do, is stale."""
    safestop_policy: Literal["hold", "cancel_only", "flatten"] = "hold"
    """When the process ends itself: nothing is sent, working entries are cancelled, or positions are closed."""
    reconcile_within_days: int = 3
    """In `mode: live`, a session older than this that no report was compared with ends entries."""


@attrs.frozen(kw_only=True)
class Switches:
    """What the operator has set; kept over sessions and crashes."""

    kill: KillSwitch = "off"
    is_halted: bool = False
    is_enabled: bool = True
    disabled_roots: tuple[str, ...] = ()

    def allows_entries_of(self, root: str) -> bool:
        return self.is_enabled and root not in self.disabled_roots

    def commanded(self, command: Command, argument: str, roots: Iterable[str]) -> Switches:
        """The switches after an operator's command, in a session that trades `roots`."""
        match command:
            case "enable" if argument and not self.is_enabled:
                # Where nothing was enabled, one root is and no other.
                others = tuple(sorted(root for root in roots if root != argument))
                return attrs.evolve(self, is_enabled=True, disabled_roots=others)
            case "enable":
                remaining = tuple(root for root in self.disabled_roots if argument and root != argument)
                return attrs.evolve(self, is_enabled=True, disabled_roots=remaining)
            case "disable" if argument:
                return attrs.evolve(self, disabled_roots=tuple(sorted({*self.disabled_roots, argument})))
            case "disable":
                return attrs.evolve(self, is_enabled=False)
            case "halt":
                return attrs.evolve(self, is_halted=True)
            case "resume":
                return attrs.evolve(self, is_halted=False, kill="off")
            case "kill":
                # Only `resume` loosens it.
                is_all = argument == "all" or self.kill == "all"
                return attrs.evolve(self, kill="all" if is_all else "entries")
            case _:
                return self


@attrs.frozen(kw_only=True)
class RiskState:
    """What the rules look at, taken at one moment."""

    switches: Switches
    is_feed_live: bool
    are_entries_open: bool
    breaker: BreakerState
    tripped: str
    """The rule that has ended this session's entries, or empty."""
    occupied: dict[str, int]
    """Contracts by root: held, being entered, or UNKNOWN."""
    session_date: dt.date
    is_live: bool
    unknown_roots: frozenset[str]
    unconfirmed: frozenset[str]
    """Roots whose position a crash left to be confirmed."""
    unreconciled_days: int
    """Age of the oldest session that no report was compared with; 0 when there is none."""
    margin_usd: Decimal
    """Of everything occupied."""
    entries_last_hour: int
    is_market_silent: bool = False


@attrs.frozen(kw_only=True)
class EntryQuestion:
    """The entry that is judged."""

    root: str
    quantity: int
    price: Price
    """The limit price, else the last close it was decided on."""
    last_price: Price | None
    """The last price known of its contract."""
    age_ns: int
    to_close_ns: int | None
    """Until the root's close."""
    margin_usd: Decimal | None
    """Initial margin of the whole entry, when the contract map knows it."""
    is_active_contract: bool
    last_trade_session: dt.date | None
    """Of its contract; None when no rule is known."""
    to_roll_close_ns: int | None
    """Until positions in its contract are closed for a roll; None when none is due."""
    reverses: bool
    """The other side of a position that the same decision closes: it does not stand in its own way."""
    stale: str = ""
    """Which root that the decision reads is stale, and why; empty when none is."""


@attrs.frozen(kw_only=True)
class Allowed:
    """The order may be sent."""


@attrs.frozen(kw_only=True)
class Refused:
    """The order is not sent; `rule` is the rule's name, `detail` the numbers it saw."""

    rule: str
    detail: str


RiskVerdict = Allowed | Refused


def judge_entry(question: EntryQuestion, *, state: RiskState, settings: RiskSettings) -> RiskVerdict:
    """The verdict on an entry. First refusal wins."""
    return next(_refusals(question, state, settings), Allowed())


def judge_exit(*, switches: Switches) -> RiskVerdict:
    """The verdict on an exit: only `kill all` stops one."""
    if switches.kill == "all":
        return Refused(rule="kill_switch", detail="kill switch is all")
    return Allowed()


def _refusals(question: EntryQuestion, state: RiskState, settings: RiskSettings) -> Iterator[Refused]:
    yield from _by_the_operator(question.root, state, settings)
    yield from _by_the_lines(question, state)
    yield from _by_time(question, settings)
    yield from _by_contract(question, state)
    yield from _by_price(question, settings)
    yield from _by_limits(question, state, settings)


def _by_the_operator(root: str, state: RiskState, settings: RiskSettings) -> Iterator[Refused]:
    switches = state.switches
    if switches.kill != "off":
        yield Refused(rule="kill_switch", detail=f"kill switch is {switches.kill}")
    if switches.is_halted:
        yield Refused(rule="halted", detail="entries are halted; `resume` ends it")
    if not switches.allows_entries_of(root):
        yield Refused(rule="not_enabled", detail=f"{root} is not enabled; `enable` does it")
    if state.unconfirmed:
        yield Refused(
            rule="unconfirmed", detail=f"after a crash `resolve` must confirm: {', '.join(sorted(state.unconfirmed))}"
        )
    if state.unreconciled_days > settings.reconcile_within_days:
        yield Refused(
            rule="unreconciled",
            detail=f"a session {state.unreconciled_days} days old was never reconciled, "
            f"limit {settings.reconcile_within_days}",
        )


def _by_the_lines(question: EntryQuestion, state: RiskState) -> Iterator[Refused]:
    if not state.are_entries_open:
        yield Refused(rule="entries_closed", detail="entries are closed")
    if not state.is_feed_live:
        yield Refused(rule="feed_not_live", detail="the feed is not live")
    if state.is_market_silent:
        yield Refused(rule="market_silent", detail="nothing trades in an open market")
    if question.stale:
        yield Refused(rule="stale_root", detail=question.stale)
    if state.breaker != "closed":
        yield Refused(rule="breaker", detail=f"TradersPost cannot be reached: the breaker is {state.breaker}")


def _by_time(question: EntryQuestion, settings: RiskSettings) -> Iterator[Refused]:
    if question.age_ns > settings.entry_freshness_s * SECOND:
        yield Refused(
            rule="stale_decision",
            detail=f"decided {question.age_ns / 1e9:.0f} s ago, limit {settings.entry_freshness_s} s",
        )
    if question.to_close_ns is not None and question.to_close_ns < settings.last_minutes * 60 * SECOND:
        yield Refused(
            rule="near_close",
            detail=f"{question.to_close_ns / 60e9:.0f} min before the close, limit {settings.last_minutes}",
        )


def _by_contract(question: EntryQuestion, state: RiskState) -> Iterator[Refused]:
    """Nothing is entered that could not be held: first notice and expiry are not waited for."""
    last, left_ns = question.last_trade_session, question.to_roll_close_ns
    if not question.is_active_contract:
        yield Refused(rule="contract", detail=f"{question.root} trades another contract now")
    if last is None and state.is_live:
        fix = "state it in the contract map under `roll: last_trade_session`"
        yield Refused(rule="last_trade_session", detail=f"of this contract of {question.root} it is not known; {fix}")
    if last is not None and state.session_date > last:
        yield Refused(rule="last_trade_session", detail=f"it was {last}, the session is {state.session_date}")
    if left_ns is not None and left_ns <= 0:
        yield Refused(
            rule="roll_pending", detail=f"positions in this contract of {question.root} are closed for a roll"
        )


def _by_price(question: EntryQuestion, settings: RiskSettings) -> Iterator[Refused]:
    """A price far from the last one is someone's mistake."""
    last = question.last_price
    if last is None:
        return
    away = abs(question.price - last)
    if Decimal(away) * 100 > settings.price_band_pct * abs(last):
        percent = 100 * away / abs(last) if last else float("inf")
        yield Refused(
            rule="price_band", detail=f"{percent:.2f} % from the last price, limit {settings.price_band_pct} %"
        )


def _by_limits(question: EntryQuestion, state: RiskState, settings: RiskSettings) -> Iterator[Refused]:
    root, occupied = question.root, state.occupied
    if state.tripped:
        yield Refused(rule=state.tripped, detail=f"{state.tripped} has ended this session's entries")
    if root in state.unknown_roots:
        yield Refused(rule="unknown_position", detail=f"it is not known what {root} holds")
    if question.reverses:
        occupied = {other: contracts for other, contracts in occupied.items() if other != root}
    if root in occupied:
        yield Refused(rule="root_occupied", detail=f"{root} is held or being entered")
    if len(occupied) >= settings.max_positions:
        yield Refused(rule="max_positions", detail=f"{len(occupied)} of {settings.max_positions} positions in use")
    if question.quantity > settings.max_contracts_per_root:
        yield Refused(
            rule="max_contracts_per_root",
            detail=f"{question.quantity} contracts, limit {settings.max_contracts_per_root}",
        )
    in_use = sum(occupied.values())
    if in_use + question.quantity > settings.max_contracts:
        yield Refused(
            rule="max_contracts",
            detail=f"{in_use} in use and {question.quantity} asked, limit {settings.max_contracts}",
        )
    if settings.max_margin_usd is not None:
        if question.margin_usd is None:
            yield Refused(rule="margin", detail=f"the contract map has no initial_margin_usd of {root}")
        elif state.margin_usd + question.margin_usd > settings.max_margin_usd:
            yield Refused(
                rule="margin",
                detail=f"{state.margin_usd} in use and {question.margin_usd} asked, limit {settings.max_margin_usd}",
            )
    if state.entries_last_hour >= settings.max_entries_per_hour:
        yield Refused(
            rule="max_entries_per_hour",
            detail=f"{state.entries_last_hour} in the last hour, limit {settings.max_entries_per_hour}",
        )
