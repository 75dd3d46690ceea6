"""The model card: everything on one page, true to the numbers, nothing to fetch, the same bytes again."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from functools import cache

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from models.candidates import LABEL, Candidates
from models.card import area, card, roc
from models.manifest import BundleDescription
from models.plots import Line, plot
from models.training import Trained, train
from tests.trades import FEATURES, PLAN, market, table_of


@cache
def made(edge: float) -> tuple[BundleDescription, Trained, Candidates]:
    table = table_of(market(edge=edge, seed=1))
    trained = train(table, PLAN)
    said = BundleDescription(
        root="ES",
        signal_product="MES",
        market="recorded",
        feature_set="v2",
        features=FEATURES,
        threshold=trained.threshold,
        params=trained.params,
        training_start="2024-01-01T00:00:00Z",
        training_end="2024-03-01T00:00:00Z",
        data_digest=trained.data_digest,
        label=LABEL,
        metrics=trained.metrics,
        folds=trained.folds,
        command="python -m actors.main train ES --data <a & b>.dbn",
        seed=3,
    )
    return said, trained, table


def test_the_page_says_what_the_numbers_say() -> None:
    said, trained, table = made(25)
    page = card(said, trained, table)
    result = trained.metrics["hold_out"]
    assert "Better than no veto on the hold-out." in page
    for key in ("without_veto", "with_veto"):
        assert f"{result[key]['net_pnl']:+,.2f}" in page
    assert f"{result['deflated_sharpe']['probability']:.1%}" in page
    assert f"{trained.threshold:.6f}" in page
    assert all(name in page for name in FEATURES)
    assert "&lt;a &amp; b&gt;.dbn" in page
    assert page.count("chosen</td>") == 1
    assert page == card(said, trained, table)


def test_a_refused_model_has_a_page_with_the_reasons() -> None:
    page = card(*made(0))
    assert "no bundle was written" in page
    assert "may be chance" in page
    assert "written all the same" in card(*made(0), is_forced=True)


def test_nothing_is_fetched_and_the_plots_are_whole() -> None:
    page = card(*made(25))
    assert not re.search(r"(src|href)=|url\(|@import|<script|<link", page)
    plots = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(plots) == 5
    for drawn in plots:
        ET.fromstring(drawn)
        assert "nan" not in drawn
        assert "inf" not in drawn


def test_the_area_under_the_roc_is_that_of_a_library() -> None:
    chance = np.random.default_rng(2)
    wins = chance.integers(0, 2, 200)
    probabilities = (wins * 0.2 + chance.random(200)).round(1)  # many ties
    assert area(*roc(wins, probabilities)) == pytest.approx(roc_auc_score(wins, probabilities), abs=1e-12)


@pytest.mark.parametrize("y", [[], [1.0], [0.0, 0.0], [1e-9, 2e-9], [-1e7, 1e7]])
def test_any_numbers_can_be_drawn(y: list[float]) -> None:
    drawn = plot([Line(name="a", x=range(len(y)), y=y, colour="one")], title="t", x_label="x", y_label="y")
    found = re.search(r"<svg.*</svg>", drawn)
    assert found is not None
    ET.fromstring(found.group())
    assert "nan" not in drawn
