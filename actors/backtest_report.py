"""A backtest in numbers: as one JSON object, as a table, and as a page that needs nothing else.

Every number is written with fixed digits: the same backtest gives the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from domain.backtest import BacktestResult, BacktestTrade
from domain.events import SignalEvaluated
from domain.gates import VETO_OFF
from domain.metrics import Money, daily, equity, summary
from domain.sessions import iso_utc
from domain.units import price_to_decimal

PORTFOLIO = "all"
_COLUMNS = (
    ("trades", "trades"),
    ("won", "won_share"),
    ("profit factor", "profit_factor"),
    ("Sharpe", "sharpe"),
    ("max drawdown", "max_drawdown"),
    ("net", "net_pnl"),
)


def backtest_report(result: BacktestResult, conditions: Mapping[str, Any]) -> dict[str, Any]:
    """Everything as JSON values. `conditions`: how it was run, in the caller's words."""
    days = _days(result)
    signals = [event for event in result.decisions if isinstance(event, SignalEvaluated)]
    by_root = {root: [trade for trade in result.trades if trade.root == root] for root in result.roots}
    return {
        "sessions": len(result.sessions),
        "from": result.sessions[0].isoformat() if result.sessions else None,
        "to": result.sessions[-1].isoformat() if result.sessions else None,
        **conditions,
        "veto": any(VETO_OFF not in signal.gates for signal in signals),
        "decisions": len(signals),
        "refusals": dict(Counter(signal.reason for signal in signals if signal.verdict == "refuse").most_common()),
        "unfilled": result.unfilled,
        "held": list(result.held),
        "portfolio": _metrics(result.trades, days),
        "roots": {root: _metrics(trades, days) for root, trades in by_root.items()},
        "rolls": [
            {
                "root": roll.root,
                "from": roll.from_contract,
                "to": roll.to_contract,
                "rule": roll.rule,
                "evidence": roll.evidence,
            }
            for roll in result.rolls
        ],
        "trades": [_trade(trade) for trade in result.trades],
    }


def _days(result: BacktestResult) -> npt.NDArray[np.int64]:
    return np.array([date.toordinal() for date in result.sessions], np.int64)


def _metrics(trades: Sequence[BacktestTrade], days: npt.NDArray[np.int64]) -> dict[str, Any]:
    return summary(_pnl(trades), _ordinals(trades), days)


def _pnl(trades: Sequence[BacktestTrade]) -> Money:
    return np.array([float(trade.pnl) for trade in trades])


def _ordinals(trades: Sequence[BacktestTrade]) -> npt.NDArray[np.int64]:
    return np.array([trade.session.toordinal() for trade in trades], np.int64)


def _trade(trade: BacktestTrade) -> dict[str, Any]:
    return {
        "root": trade.root,
        "contract": trade.contract,
        "session": trade.session.isoformat(),
        "side": trade.side,
        "quantity": trade.quantity,
        "decided": iso_utc(trade.decided_ns),
        "entry": iso_utc(trade.entry_ns),
        "entry_price": f"{price_to_decimal(trade.entry_price):f}",
        "exit": iso_utc(trade.exit_ns),
        "exit_price": f"{price_to_decimal(trade.exit_price):f}",
        "exit_reason": trade.exit_reason,
        "net_pnl": f"{trade.pnl:.2f}",
        "ibs": trade.ibs,
        "probability": trade.probability,
        "threshold": trade.threshold,
        "features": dict(zip(trade.features, trade.values, strict=True)),
    }


# ---------------------------------------------------------------- a table


def backtest_words(report: Mapping[str, Any]) -> Iterator[str]:
    """For a person: the sessions, a line per root, and why there was no entry."""
    span = f"{report['sessions']} sessions, {report['from']} to {report['to']}" if report["from"] else "no session"
    yield f"{span}; {_conditions(report)}"
    yield ""
    yield f"{'root':<6}" + "".join(f"{title:>14}" for title, _ in _COLUMNS)
    for name, metrics in _rows(report):
        yield f"{name:<6}" + "".join(f"{_number(key, metrics[key]):>14}" for _, key in _COLUMNS)
    yield ""
    exits = Counter(trade["exit_reason"] for trade in report["trades"])
    yield f"decisions  {report['decisions']:,}, refusals {_counts(report['refusals'])}"
    yield f"exits      {_counts(exits)}"
    if report["unfilled"]:
        yield f"unfilled   {report['unfilled']} entries"
    if report["held"]:
        yield f"held       at the end, and no trade yet: {', '.join(report['held'])}"
    for roll in report["rolls"]:
        yield f"roll       {roll['root']}: {roll['from']} to {roll['to'] or 'nothing known'} ({roll['evidence']})"


def _conditions(report: Mapping[str, Any]) -> str:
    fills = (
        "fills as recorded"
        if report["fills"] == "recorded"
        else f"next-bar fills, {report['slippage_ticks']} tick(s) worse"
    )
    return f"{fills}, veto {'on' if report['veto'] else 'off'}"


def _rows(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    roots = list(report["roots"].items())
    return [*roots, (PORTFOLIO, report["portfolio"])] if len(roots) > 1 else roots


def _number(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    match key:
        case "trades":
            return f"{value:,}"
        case "won_share":
            return f"{value:.1%}"
        case "net_pnl" | "max_drawdown":
            return f"{value:,.2f}"
        case _:
            return f"{value:.2f}"


def _counts(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {count}" for name, count in ordered) or "none"


# ----------------------------------------------------------------- a page

_WIDTH, _LEFT, _TOP, _BOTTOM = 960, 78, 12, 24
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #667085; --line: #d9dee6; --up: #1f6f54; --down: #b3402f;
  --page: #fff; --band: #f5f7fa; --draw: #2858a8 }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #98a2b3; --line: #343c49; --up: #5cc49b;
  --down: #ef8a78; --page: #14181f; --band: #1c222c; --draw: #7fa8f0 } }
body { font: 14px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 1040px;
  margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem; margin: 0 } h2 { font-size: 1.05rem; margin: 2rem 0 .4rem }
p { color: var(--soft); margin: .2rem 0 }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .28rem .5rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
th { color: var(--soft); font-weight: 500 } th:first-child, td:first-child { text-align: left }
tr.sum td { font-weight: 600 } .up { color: var(--up) } .down { color: var(--down) }
.wide { overflow-x: auto } svg { width: 100%; height: auto; display: block }
svg text { font: 12px system-ui, sans-serif; fill: var(--soft) } svg .grid { stroke: var(--line) }
details > summary { cursor: pointer } details table { width: auto; margin: .3rem 0 .6rem 1rem; background: var(--band) }
details td { white-space: normal }
"""


def backtest_page(result: BacktestResult, report: Mapping[str, Any]) -> str:
    """One HTML file: equity, drawdown, a line per root, every trade with its features."""
    per_day = daily(_pnl(result.trades), _ordinals(result.trades), _days(result))
    curve = equity(per_day)
    fallen = curve - np.maximum.accumulate(curve)
    dates = ["", *(date.isoformat() for date in result.sessions)]
    return "\n".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Backtest {report['from']} to {report['to']}</title><style>{_STYLE}</style></head><body>",
            f"<h1>Backtest, {report['from']} to {report['to']}</h1>",
            f"<p>{report['sessions']} sessions; {escape(_conditions(report))}. Net of commissions; Sharpe of daily "
            "results with 252 days.</p>",
            "<h2>Equity</h2>",
            _curve(curve, dates, 220, "var(--draw)"),
            "<h2>Drawdown</h2>",
            _curve(fallen, dates, 120, "var(--down)"),
            "<h2>Roots</h2>",
            _table(report),
            "<h2>Why nothing was entered</h2>",
            f"<p>{report['decisions']:,} decisions; {escape(_counts(report['refusals']))}</p>",
            *_rolls(report),
            f"<h2>Trades</h2>{_trades(report['trades'])}",
            "</body></html>\n",
        )
    )


def _curve(values: Money, dates: Sequence[str], height: int, colour: str) -> str:
    """Values by session as a line from 0, the area to 0 lightly filled."""
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    span = (high - low) or 1.0
    across = (_WIDTH - _LEFT - 8) / max(1, len(values) - 1)

    def y_of(value: float) -> float:
        return _TOP + (high - value) / span * (height - _TOP - _BOTTOM)

    points = " ".join(f"{_LEFT + index * across:.1f},{y_of(float(value)):.1f}" for index, value in enumerate(values))
    zero, right = y_of(0.0), _LEFT + (len(values) - 1) * across
    marks = [low, high] if low < 0 < high else [low or high]
    grid = "".join(
        f'<path class="grid" d="M{_LEFT} {y_of(mark):.1f}H{_WIDTH - 8}"/>'
        f'<text x="{_LEFT - 8}" y="{y_of(mark) + 4:.1f}" text-anchor="end">{mark:,.0f}</text>'
        for mark in [0.0, *(mark for mark in marks if abs(y_of(mark) - zero) > 14)]
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img">{grid}'
        f'<polygon points="{_LEFT},{zero:.1f} {points} {right:.1f},{zero:.1f}" fill="{colour}" opacity=".12"/>'
        f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
        f"{_axis(dates, height, across)}</svg>"
    )


def _axis(dates: Sequence[str], height: int, across: float) -> str:
    """Up to six dates, the first and the last session among them."""
    last = len(dates) - 1
    chosen = sorted({1 + round(step * (last - 1) / 5) for step in range(6)}) if last > 0 else []
    return "".join(
        f'<text x="{_LEFT + index * across:.1f}" y="{height - 6}" '
        f'text-anchor="{"end" if index == last else "middle"}">{dates[index]}</text>'
        for index in chosen
    )


def _table(report: Mapping[str, Any]) -> str:
    head = "".join(f"<th>{title}</th>" for title, _ in _COLUMNS)
    body = "".join(
        f"<tr{' class=sum' if name == PORTFOLIO else ''}><td>{escape(name)}</td>"
        + "".join(f"<td{_sign(key, metrics[key])}>{_number(key, metrics[key])}</td>" for _, key in _COLUMNS)
        + "</tr>"
        for name, metrics in _rows(report)
    )
    return f'<div class="wide"><table><tr><th>root</th>{head}</tr>{body}</table></div>'


def _sign(key: str, value: float | None) -> str:
    if key != "net_pnl" or not value:
        return ""
    return ' class="up"' if value > 0 else ' class="down"'


def _rolls(report: Mapping[str, Any]) -> Iterator[str]:
    if report["rolls"]:
        yield "<h2>Rolls</h2>"
    for roll in report["rolls"]:
        words = f"{roll['root']}: {roll['from']} to {roll['to'] or 'nothing known'}; {roll['evidence']}"
        yield f"<p>{escape(words)}</p>"


def _trades(trades: Sequence[Mapping[str, Any]]) -> str:
    if not trades:
        return "<p>none</p>"
    titles = (
        "contract",
        "side",
        "decided (UTC)",
        "entry",
        "price",
        "exit",
        "price",
        "why",
        "IBS",
        "probability",
        "net",
    )
    head = "".join(f"<th>{title}</th>" for title in titles)
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(_trade_row(trade) for trade in trades)}</table></div>'


def _trade_row(trade: Mapping[str, Any]) -> str:
    name = f"{trade['quantity']} {trade['contract']}"
    if trade["features"]:
        inputs = "".join(
            f"<tr><td>{escape(feature)}</td><td>{value:.6g}</td></tr>" for feature, value in trade["features"].items()
        )
        name = f"<details><summary>{escape(name)}</summary><table>{inputs}</table></details>"
    else:
        name = escape(name)
    probability = "-" if trade["probability"] is None else f"{trade['probability']:.3f} of {trade['threshold']:.3f}"
    cells = (
        name,
        trade["side"],
        _short(trade["decided"]),
        _short(trade["entry"])[11:],
        trade["entry_price"],
        _short(trade["exit"])[11:],
        trade["exit_price"],
        escape(trade["exit_reason"]),
        "-" if trade["ibs"] is None else f"{trade['ibs']:.3f}",
        probability,
    )
    net = float(trade["net_pnl"])
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + f"<td{_sign('net_pnl', net)}>{net:,.2f}</td></tr>"


def _short(moment: str) -> str:
    """`2024-05-01 14:00` of an ISO moment; seconds say nothing that the JSON does not."""
    return moment[:16].replace("T", " ")
