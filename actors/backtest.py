"""A market of minute bars as the sessions that `live` would have opened, and the run over them.

For each session of the calendar: the contract of every root by the live rule of rolls, hours and days folded as
the aggregator folds them, and the history before at the contract's price level. Nothing of a session is
looked at before it, but its own volumes on the very first day, when there are none before.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import attrs
import numpy as np

from actors.contract_choice import dated
from domain.backtest import (
    CLOSE,
    END,
    HIGH,
    LOW,
    NO_ROWS,
    OPEN,
    PRICES,
    START,
    TRADES,
    VOLUME,
    BacktestResult,
    BacktestTrade,
    ContractMinutes,
    MarketSession,
    RootBars,
)
from domain.bars import BarTable, Timeframe
from domain.events import RollDue, SessionOpened, SignalEvaluated, VetoScored
from domain.history import MAX_DAYS, MAX_HOURS, Rows
from domain.ibs import StrategySettings
from domain.instruments import ContractName, ResolvedContract, TradedRoot, parse_contract
from domain.populations import CarriedPercentile
from domain.ports import Calendar
from domain.risk import RiskSettings
from domain.rolls import close_time, front_contract, judge_roll, next_contract
from domain.sessions import Session
from domain.units import HOUR, Nanos, Price
from domain.veto import ModelRecord, VetoModel

Decision = SignalEvaluated | VetoScored
Listener = Callable[[Decision], None]


class RootRunner(Protocol):
    """One root over consecutive sessions (`adapters.backtrader.backtest.RootBacktest`)."""

    def run(self, market: MarketSession) -> tuple[BacktestTrade, ...]: ...

    def percentiles(self) -> tuple[CarriedPercentile, ...]: ...

    @property
    def unfilled(self) -> int: ...

    @property
    def is_holding(self) -> bool: ...


def run_sessions(
    sessions: Iterable[MarketSession],
    make_runners: Callable[[Listener], Mapping[str, RootRunner]],
    *,
    on_session: Callable[[dt.date], None] = lambda date: None,
) -> BacktestResult:
    """Every root's runner over `sessions`, which are gone through once. `on_session` hears of each that is done."""
    decisions: list[Decision] = []
    trades: list[BacktestTrade] = []
    rolls: list[RollDue] = []
    dates: list[dt.date] = []
    runners = make_runners(decisions.append)
    for market in sessions:
        first = len(decisions)
        for root in runners:
            trades += runners[root].run(market)
        # Roots run one after the other; the result is in order of time, as a journal would have it.
        decisions[first:] = sorted(decisions[first:], key=lambda event: (event.ts, event.root))
        rolls += [roll for roll in market.rolls if roll.root in runners]
        if any(_has_traded(market, root) for root in runners) and dates[-1:] != [
            market.date
        ]:  # a journal's session may have several segments
            dates.append(market.date)
        on_session(market.date)
    return BacktestResult(
        sessions=tuple(dates),
        roots=tuple(runners),
        trades=tuple(sorted(trades, key=lambda trade: (trade.exit_ns, trade.root))),
        decisions=tuple(decisions),
        rolls=tuple(rolls),
        percentiles=tuple(state for runner in runners.values() for state in runner.percentiles()),
        unfilled=sum(runner.unfilled for runner in runners.values()),
        held=tuple(root for root, runner in runners.items() if runner.is_holding),
    )


def _has_traded(market: MarketSession, root: str) -> bool:
    """Inside its hours: what trades after a close is of the next session's file, and no day of its own."""
    bars, hours = market.bars.get(root), market.opened.session.hours_of(root)
    return bars is not None and bool(
        ((bars.minutes[:, START] >= hours.open_ns) & (bars.minutes[:, START] < hours.close_ns)).any()
    )


# --------------------------------------------------------------- the sessions


def market_sessions(
    minutes: Sequence[ContractMinutes],
    *,
    roots: Sequence[TradedRoot],
    settings: StrategySettings,
    calendar: Calendar,
    records: tuple[ModelRecord, ...] = (),
    models: Mapping[str, VetoModel] = MappingProxyType({}),
    required_reference_feeds: tuple[str, ...] = (),
    roots_on: Callable[[Sequence[TradedRoot], dt.date], tuple[TradedRoot, ...]] = lambda roots, _: tuple(roots),
) -> Iterator[MarketSession]:
    """The sessions in which any of `roots` has a bar, in order.

    `records`: what is said of each traded root's veto, `models` what they name. `required_reference_feeds`: what
    entries wait for. `roots_on`: the roots with the specs of a session.
    """
    markets = {
        root.root: _RootMarket(root, [one for one in minutes if one.root == root.root], calendar) for root in roots
    }
    ts = _first_start(minutes, 0)
    while ts is not None:
        session = calendar.session_of(ts, roots)
        found = [markets[root.root].open(session, settings) for root in roots]
        opened = SessionOpened(
            session=session,
            segment=1,
            mode="paper",
            is_demo=False,
            account="backtest",
            clock="feed",
            seed=1,
            version="",
            code_digest="",
            config_digest="",
            libraries={},
            strategy=settings,
            risk=RiskSettings(),
            roots=roots_on(roots, session.date),
            contracts=tuple(contract for one in found for contract in one.contracts),
            feed_start_ns=session.start_ns,
            models=records,
            required_reference_feeds=required_reference_feeds,
            mappings=tuple(mapping for one in found for mapping in one.mappings),
        )
        yield MarketSession(
            opened=opened,
            bars={root.root: one.bars for root, one in zip(roots, found, strict=True) if one.bars is not None},
            models=models,
            rolls=tuple(one.due for one in found if one.due is not None),
        )
        ts = _first_start(minutes, session.end_ns)


def _first_start(minutes: Sequence[ContractMinutes], since: int) -> Nanos | None:
    starts = [
        int(one.rows[at, START])
        for one in minutes
        if (at := int(np.searchsorted(one.rows[:, START], since))) < len(one.rows)
    ]
    return Nanos(min(starts)) if starts else None


@attrs.frozen(kw_only=True, eq=False)
class _Opened:
    """What a session says of one root."""

    contracts: tuple[ResolvedContract, ...] = ()
    mappings: tuple[ResolvedContract, ...] = ()
    due: RollDue | None = None
    bars: RootBars | None = None


class _RootMarket:
    """One root from session to session: its contract, the volumes before, and its history."""

    def __init__(self, root: TradedRoot, contracts: Sequence[ContractMinutes], calendar: Calendar) -> None:
        self._root, self._calendar = root, calendar
        self._contracts = sorted(contracts, key=lambda one: (one.name.expiry.year, one.name.expiry.month))
        self._end_ns = Nanos(max((int(one.rows[-1, END]) for one in contracts if len(one.rows)), default=0))
        self._dated: dict[ContractName, ResolvedContract] = {}
        self._volumes: dict[ContractName, int] = {}
        """Of the last session with a bar. By name: the symbol that a contract has is another one's ten years later."""
        self._front: ContractMinutes | None = None
        self._due: RollDue | None = None
        self._history: dict[Timeframe, Rows] = {"1h": NO_ROWS, "1d": NO_ROWS}

    def open(self, session: Session, settings: StrategySettings) -> _Opened:
        """The root's part of the session, which becomes history then."""
        root, date = self._root, session.date
        named = {
            one.raw_symbol: one
            for one in self._contracts
            if parse_contract(one.raw_symbol, [root.data_product], date) == one.name
        }
        own = {raw: _volume(one.rows, session) for raw, one in named.items()}
        volumes = {raw: self._volumes.get(one.name, 0) for raw, one in named.items()}
        if not any(volumes.values()):
            volumes = own
        offered = _ranked(volumes)
        if offered[0] is None:
            return _Opened()
        resolved = {raw: self._resolved(one, date) for raw, one in named.items()}
        tradable = {
            raw for raw, one in resolved.items() if one.last_trade_session is None or date <= one.last_trade_session
        }
        before = None if self._front is None or self._front not in named.values() else self._front.raw_symbol
        due_to = None if self._due is None or self._due.from_contract != before else self._due.to_contract
        front = front_contract(
            root,
            date,
            before=before,
            due_to=due_to if due_to in named else None,
            offered=offered,
            tradable=tradable,
        )
        following = next_contract(root, date, front, offered)
        if front is None:
            return _Opened()
        contracts = tuple(
            attrs.evolve(resolved[raw], rank=rank)
            for rank, raw in ((0, front), (1, following))
            if raw is not None
        )  # fmt: skip
        self._due = self._due_of(session, settings, contracts, offered[0], volumes)
        bars = self._bars(session, named[front], is_listed=before is not None)
        self._front = named[front]
        if any(own.values()):
            self._volumes = {named[raw].name: volume for raw, volume in own.items()}
        mappings = tuple(
            ResolvedContract(root=root.root, rank=rank, raw_symbol=raw) for rank, raw in enumerate(offered)
        )
        return _Opened(contracts=contracts, mappings=mappings, due=self._due, bars=bars)

    def _resolved(self, one: ContractMinutes, date: dt.date) -> ResolvedContract:
        if one.name not in self._dated:
            contract = ResolvedContract(root=self._root.root, rank=0, raw_symbol=one.raw_symbol)
            self._dated[one.name] = dated(contract, self._root, self._calendar, date)
        return self._dated[one.name]

    def _due_of(
        self,
        session: Session,
        settings: StrategySettings,
        contracts: tuple[ResolvedContract, ...],
        mapped: str | None,
        volumes: Mapping[str, int],
    ) -> RollDue | None:
        front, following = contracts[0], contracts[1] if len(contracts) > 1 else None
        verdict = judge_roll(self._root, session.date, front=front, following=following, mapped=mapped, volumes=volumes)
        if not verdict.is_due or front.raw_symbol is None:
            return None
        return RollDue(
            root=self._root.root,
            from_contract=front.raw_symbol,
            to_contract=None if following is None else following.raw_symbol,
            rule=verdict.rule,
            evidence=verdict.evidence,
            policy=self._root.roll_policy,
            close_ns=close_time(self._root, front, session, settings),
        )

    def _bars(self, session: Session, front: ContractMinutes, *, is_listed: bool) -> RootBars:
        """`is_listed`: whether the contract before is still one that can be named."""
        hours_of, before = session.hours_of(self._root.root), self._front
        rows = front.rows
        minutes = _ending(rows, session.start_ns, session.end_ns)
        hours = _hours(rows, session)
        days = _day(minutes, hours_of.open_ns, hours_of.close_ns)
        difference = None
        if before is not None and before is not front:
            difference = _difference(before.rows, rows, session.start_ns) if is_listed else None
            for timeframe, held in self._history.items():
                self._history[timeframe] = _shifted(held, difference)
        tables: tuple[tuple[Timeframe, Rows], ...] = tuple(self._history.items())
        history = tuple(
            BarTable(root=self._root.root, timeframe=timeframe, contracts=(front.raw_symbol,) * len(held), data=held)
            for timeframe, held in tables
        )
        self._history["1h"] = np.concatenate((self._history["1h"], hours))[-MAX_HOURS:]
        self._history["1d"] = np.concatenate((self._history["1d"], days))[-MAX_DAYS:]
        return RootBars(
            minutes=minutes,
            hours=hours,
            days=days,
            history=history,
            rolled_from=None if before is None or before is front else before.raw_symbol,
            difference=difference,
            until_ns=self._end_ns if self._end_ns < session.end_ns else None,
        )


def _ranked(volumes: Mapping[str, int]) -> tuple[str | None, str | None]:
    """What `ROOT.v.0` and `ROOT.v.1` mean: the busiest contract, and the busiest that expires later.

    `volumes` by expiry; of equal ones the first. A metal's serial month next to it, which hardly trades, is neither.
    """
    if not any(volumes.values()):
        return None, None
    names = list(volumes)
    front = max(names, key=lambda raw: volumes[raw])
    later = names[names.index(front) + 1 :]
    return front, max(later, key=lambda raw: volumes[raw], default=None)


def _volume(rows: Rows, session: Session) -> int:
    return int(_ending(rows, session.start_ns, session.end_ns)[:, VOLUME].sum())


def _ending(rows: Rows, start: int, end: int) -> Rows:
    """The rows that end in (start, end]."""
    first, after = np.searchsorted(rows[:, END], (start, end), "right")
    return rows[first:after]


def _hours(rows: Rows, session: Session) -> Rows:
    """The clock hours that end in the session's file. Sessions open on the full hour: they are its grid."""
    first, after = np.searchsorted(rows[:, START], (session.start_ns - HOUR, session.end_ns))
    chosen = rows[first:after]
    ends = chosen[:, START] // HOUR * HOUR + HOUR
    is_inside = (ends > session.start_ns) & (ends <= session.end_ns)
    return _folded(chosen[is_inside], ends[is_inside])


def _folded(rows: Rows, ends: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Rows:
    """One row for each of `ends`, which ascend; an hour long."""
    if not len(rows):
        return NO_ROWS
    first = np.flatnonzero(np.concatenate(([True], ends[1:] != ends[:-1])))
    after = np.append(first[1:], len(ends))
    return np.column_stack(
        (
            ends[first] - HOUR,
            ends[first],
            rows[first, OPEN],
            np.maximum.reduceat(rows[:, HIGH], first),
            np.minimum.reduceat(rows[:, LOW], first),
            rows[after - 1, CLOSE],
            np.add.reduceat(rows[:, VOLUME], first),
            np.add.reduceat(rows[:, TRADES], first),
        )
    )


def _day(minutes: Rows, open_ns: int, close_ns: int) -> Rows:
    """The exchange session; what trades after the root's close is of none."""
    inside = minutes[: int(np.searchsorted(minutes[:, START], close_ns))]
    if open_ns >= close_ns or not len(inside):
        return NO_ROWS
    row = [
        min(open_ns, int(inside[0, START])),
        close_ns,
        inside[0, OPEN],
        inside[:, HIGH].max(),
        inside[:, LOW].min(),
        inside[-1, CLOSE],
        inside[:, VOLUME].sum(),
        inside[:, TRADES].sum(),
    ]
    return np.array([row], np.int64)


def _difference(old: Rows, new: Rows, before: int) -> Price | None:
    """New close less old close in the last minute that both had traded in; None without one."""
    old, new = (rows[: int(np.searchsorted(rows[:, END], before, "right"))] for rows in (old, new))
    # The last common minute is near the end, where there is one: look back in growing steps.
    for count in (2_000, 20_000, len(old) + len(new)):
        ours, theirs = old[-count:], new[-count:]
        common, at, other = np.intersect1d(ours[:, END], theirs[:, END], True, return_indices=True)
        if len(common):
            return Price(int(theirs[other[-1], CLOSE] - ours[at[-1], CLOSE]))
    return None


def _shifted(rows: Rows, difference: Price | None) -> Rows:
    if difference is None:
        return NO_ROWS
    shifted = np.array(rows)
    shifted[:, PRICES] += difference
    return shifted
