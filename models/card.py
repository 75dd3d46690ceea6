"""The model card: one HTML page that says what a forest was trained on and what it was worth, with plots.

It holds everything it shows (no script, no font, no link to fetch), also for a model that was refused.
The same training gives the same bytes.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from domain.metrics import daily, equity
from models.candidates import Candidates
from models.manifest import BundleDescription, entries_of
from models.plots import Floats, Line, bars, plot
from models.training import CONFIDENCE, Trained

_SHOWN = 15
"""Importances."""
_BINS = 8
"""Of the calibration, equally full."""

_STYLE = """
:root{--ink:#1c2430;--soft:#5b6675;--rule:#d9dee5;--page:#fff;--one:#2563a8;--two:#c2571a;--good:#1f7a45;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa5b3;--rule:#343c47;--page:#14181e;--one:#6ea8e6;
--two:#f0965a;--good:#5cc98a;--bad:#f2827a}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:1000px;margin:2rem auto;
padding:0 1rem}h1{margin-bottom:.2rem}h2{margin-top:2rem;font-size:1.15rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:.2rem .8rem .2rem 0;text-align:left;
border-bottom:1px solid var(--rule);vertical-align:top}td.n,th.n{text-align:right}th{color:var(--soft);font-weight:500}
.verdict{border-left:4px solid var(--bad);padding:.4rem .9rem;margin:1rem 0}.verdict.good{border-color:var(--good)}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(380px,1fr));gap:1.5rem}figure{margin:0}
figcaption{font-weight:600}svg{width:100%}svg text{font-size:11px;fill:var(--soft)}.grid{stroke:var(--rule)}
.line{fill:none;stroke-width:2}.mark{stroke:var(--soft);stroke-dasharray:3 3}.legend{font-size:13px;color:var(--soft)}
.legend span{margin-right:1.2rem}.legend i{display:inline-block;width:20px;vertical-align:middle;margin-right:.4rem}
.note{color:var(--soft);font-size:13px}code{font-size:13px;overflow-wrap:anywhere}
"""


def card(said: BundleDescription, trained: Trained, table: Candidates, *, is_forced: bool = False) -> str:
    """The page. `is_forced`: it was written although it is not better than no veto."""
    result = trained.metrics["hold_out"]
    title = f"{said.root}: model card"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{escape(title)}</h1>{_verdict(trained, said.market, is_forced=is_forced)}"
        f"<h2>Hold-out, {result['from']} to {result['to']}, looked at once</h2>{_results(result)}{_evidence(result)}"
        f'<h2>Plots</h2><div class="plots">{"".join(_plots(trained, table))}</div>'
        f"<h2>Folds</h2>{_folds(trained)}"
        f"<h2>Forests</h2>{_forests(trained)}"
        f"<h2>How it was made</h2>{_facts(said, trained)}"
        "</body></html>\n"
    )


def _verdict(trained: Trained, market: str, *, is_forced: bool) -> str:
    simulated = " The market is simulated: this proves nothing about a real one." if market == "simulated" else ""
    if not trained.shortcomings:
        words = "Better than no veto on the hold-out."
        return f'<div class="verdict good"><b>{words}</b>{simulated}</div>'
    what = "written all the same (forced)" if is_forced else "no bundle was written"
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in trained.shortcomings)
    words = f"<b>Not better than no veto on the hold-out</b>; {what}.{simulated}"
    return f'<div class="verdict">{words}<ul>{reasons}</ul></div>'


# ------------------------------------------------------------------ tables

_COLUMNS = (
    ("trades", "Trades", "{:,}"),
    ("net_pnl", "Net P&L", "{:+,.2f}"),
    ("won_share", "Won", "{:.1%}"),
    ("profit_factor", "Profit factor", "{:.2f}"),
    ("sharpe", "Sharpe (252 days)", "{:.2f}"),
    ("max_drawdown", "Drawdown", "{:,.2f}"),
)


def _results(result: Mapping[str, Any]) -> str:
    rows = [
        [name, *(_shown(result[key][column], form) for column, _, form in _COLUMNS)]
        for key, name in (
            ("without_veto", "Without the veto"),
            ("with_veto", "Trades that pass"),
            ("run_with_veto", "The strategy with it"),
        )
        if key in result
    ]
    return _table(["", *(name for _, name, _ in _COLUMNS)], rows)


def _evidence(result: Mapping[str, Any]) -> str:
    edge, deflated = result["edge_per_trade"], result["deflated_sharpe"]
    words = "No trade passes."
    if edge is not None:
        words = (
            f"A trade that passes earned {edge['value']:+,.2f} more than the mean of all "
            f"({CONFIDENCE:.0%} interval {edge['low']:+,.2f} to {edge['high']:+,.2f}, whole sessions resampled)."
        )
    if deflated is not None:
        words += (
            f" Deflated Sharpe ratio: with {deflated['trials']} thresholds and forests tried, the best of as many "
            f"without skill would be expected to show {deflated['benchmark']:.2f}; the probability that the true "
            f"ratio lies above it is {deflated['probability']:.1%} (Bailey & López de Prado 2014)."
        )
    return f"<p>{escape(words)}</p>"


def _folds(trained: Trained) -> str:
    rows = [
        [
            str(fold["fold"]),
            fold["from"],
            f"{fold['learned_from']:,}",
            *(
                _shown(fold[key][column], form)
                for key in ("without_veto", "with_veto")
                for column, form in (("trades", "{:,}"), ("net_pnl", "{:+,.2f}"))
            ),
        ]
        for fold in trained.folds
    ]
    head = ["Fold", "From", "Learned from", "Trades", "Net P&L", "With veto", "Net P&L"]
    return (
        _table(head, rows) + '<p class="note">The threshold was chosen on these folds: their results with the veto '
        "are the best of all that was tried, not a forecast.</p>"
    )


def _forests(trained: Trained) -> str:
    rows = [
        [", ".join(f"{name}={value}" for name, value in params.items()), f"{net_pnl:+,.2f}", mark]
        for params, net_pnl in trained.choice.of_forests
        for mark in ["chosen" if params is trained.choice.params else ""]
    ]
    return _table(["Tried", "Best net P&L on the folds", ""], rows)


def _facts(said: BundleDescription, trained: Trained) -> str:
    facts = {
        "Signal product": f"{said.signal_product}, {entries_of(said.side)}, {said.market} market",
        "Training window": f"{said.training_start} to {said.training_end}",
        "Rows": f"{trained.metrics['rows']:,} entries in {trained.metrics['sessions']:,} sessions",
        "Strategy": ", ".join(f"{name}={value}" for name, value in said.metrics.get("strategy", {}).items())
        or "the defaults",
        "Label": said.label,
        "Threshold": f"{said.threshold:.6f}",
        "Forest": ", ".join(f"{name}={value}" for name, value in said.params.items()),
        "Tried": f"forests: {trained.metrics['forests_tried']}, thresholds: {trained.metrics['thresholds_tried']}",
        "Features": f"{said.feature_set}: {', '.join(said.features)}",
        "Data digest": said.data_digest,
        "Command": said.command,
        "Seed": str(said.seed),
    }
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td><code>{escape(value)}</code></td></tr>" for name, value in facts.items()
    )
    return f"<table>{rows}</table>"


def _table(head: list[str], rows: list[list[str]]) -> str:
    def row(tag: str, cells: list[str]) -> str:
        return "".join(
            f"<{tag}{' class=n' if number else ''}>{escape(cell)}</{tag}>" for number, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{row('td', cells)}</tr>" for cells in rows)
    return f"<table><tr>{row('th', head)}</tr>{body}</table>"


def _shown(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


# ------------------------------------------------------------------- plots


def _plots(trained: Trained, table: Candidates) -> list[str]:
    tested = trained.hold_out.tested
    days = trained.hold_out.days
    passed = tested & (trained.unseen >= trained.threshold)
    curves = [
        Line(name=name, x=range(len(days) + 1), y=equity(daily(table.pnl[rows], table.sessions[rows], days)), colour=c)
        for name, rows, c in (("without the veto", tested, "two"), ("with it", passed, "one"))
    ]
    ticks = [(place + 1.0, _date(days[place])) for place in sorted({0, len(days) // 2, len(days) - 1})]
    levels = trained.choice.levels
    return [
        plot(curves, title="Equity on the hold-out", x_label="session", y_label="net P&L", x_ticks=ticks),
        plot(
            [
                Line(
                    name="net P&L of the folds' trades that pass",
                    x=[level.threshold for level in levels],
                    y=[level.net_pnl for level in levels],
                    colour="one",
                    has_dots=True,
                ),
                Line(
                    name="of all",
                    x=[levels[0].threshold, levels[-1].threshold],
                    y=[levels[0].net_pnl] * 2,
                    colour="two",
                    is_dashed=True,
                ),
            ],
            title="Threshold, chosen on the folds",
            x_label="threshold",
            y_label="net P&L",
            x_mark=trained.threshold,
        ),
        _roc(trained, table),
        _calibration(table.wins[tested], trained.unseen[tested]),
        bars(_importances(trained, table), title="Importances", unit="share of the trees' impurity decrease"),
    ]


def _roc(trained: Trained, table: Candidates) -> str:
    lines = []
    for name, unseen, colour in (("folds", trained.choice.unseen, "two"), ("hold-out", trained.unseen, "one")):
        tested = ~np.isnan(unseen)
        x, y = roc(table.wins[tested], unseen[tested])
        lines.append(Line(name=f"{name}, area {area(x, y):.3f}", x=x, y=y, colour=colour))
    lines.append(Line(name="chance", x=[0, 1], y=[0, 1], colour="soft", is_dashed=True))
    return plot(lines, title="ROC", x_label="lost trades that pass", y_label="won trades that pass")


def roc(wins: npt.NDArray[np.int64], probabilities: Floats) -> tuple[Floats, Floats]:
    """Shares of lost and of won trades that pass, at every threshold from none to all; equal ones pass together."""
    order = np.argsort(-probabilities, kind="stable")
    last = np.append(np.flatnonzero(np.diff(probabilities[order])), len(order) - 1)
    won, lost = np.cumsum(wins[order])[last], np.cumsum(1 - wins[order])[last]
    return np.append(0.0, lost / max(int(lost[-1]), 1)), np.append(0.0, won / max(int(won[-1]), 1))


def area(x: Floats, y: Floats) -> float:
    """Under the line: for a ROC the probability that a won trade scores above a lost one."""
    return float(np.trapezoid(y, x))


def _calibration(wins: npt.NDArray[np.int64], probabilities: Floats) -> str:
    order = np.argsort(probabilities, kind="stable")
    parts = [part for part in np.array_split(order, _BINS) if len(part)]
    said = [float(probabilities[part].mean()) for part in parts]
    found = [float(wins[part].mean()) for part in parts]
    span = [min(said), max(said)]
    return plot(
        [
            Line(name="hold-out, in eight equal parts", x=said, y=found, colour="one", has_dots=True),
            Line(name="as said", x=span, y=span, colour="soft", is_dashed=True),
        ],
        title="Calibration",
        x_label="probability said",
        y_label="share won",
    )


def _importances(trained: Trained, table: Candidates) -> list[tuple[str, float]]:
    shares = trained.estimator.feature_importances_.tolist()
    return sorted(zip(table.features, shares, strict=True), key=lambda pair: (-pair[1], pair[0]))[:_SHOWN]


def _date(ordinal: np.int64) -> str:
    return dt.date.fromordinal(int(ordinal)).isoformat()
