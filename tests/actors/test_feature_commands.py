"""`features`: the registry in words, and docs/features.md, which must say the same."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from actors.feature_commands import band_words, features, reads
from domain.errors import OperatorError
from domain.features import BASES, FEATURES, READ_HOURS, UNAVAILABLE, UNIVERSE
from domain.features.percentiles import PRODUCTS, SECOND_NAMES
from tests.domain.test_features import reference

DOCS = Path(__file__).resolve().parents[2] / "docs" / "features.md"
CROSS = {name for name in FEATURES for root in UNIVERSE if name.startswith(f"{root.lower()}_")}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(features, arguments)


def test_the_list_has_every_name_with_its_window_and_its_inputs() -> None:
    lines = {line.split()[0]: line for line in run().output.splitlines()[1:]}
    assert lines.keys() == FEATURES.keys() | UNAVAILABLE.keys()
    for name, feature in FEATURES.items():
        assert f" {feature.window}  {reads(feature)} " in lines[name]
    assert lines["vix_regime"].endswith("unavailable: needs VIX, which GLBX.MDP3 does not carry")


def test_one_name_is_explained() -> None:
    said = run("rsi2_pct").output.splitlines()
    assert said[0] == "name        rsi2_pct"
    assert "also called secondary_rsi_percentile" in said
    assert "population  rsi2: Wilder's RSI of 14. Of 300 bars" in said
    assert "reads       rsi2" in said
    daily = run("pair_z_score_daily").output.splitlines()
    assert "reads       own days, the pair's days" in daily
    assert "formula     The z20 of C − C of the pair at the same bars." in daily
    assert "legacy-1    the same as pair_z" in daily
    assert "gate        -2 ≤ value ≤ 2" in daily
    assert "used by     no bundle" in daily
    assert "used by     6A, 6B, 6E, CL, ES, GC, HG, NG, NQ, RTY, SI, YM" in run("price_usd").output


def test_an_unavailable_name_says_why_and_an_unknown_one_is_refused() -> None:
    assert "unavailable needs VIX" in run("value_pct").output
    refused = run("volz_pc").exception
    assert isinstance(refused, OperatorError)
    assert "did you mean 'volz_pct'" in refused.what


def test_columns_are_the_filter_columns_of_the_predecessor() -> None:
    rows = list(csv.DictReader(io.StringIO(run("--columns").output)))
    assert [row["name"] for row in rows] == list(FEATURES)
    assert list(csv.DictReader(io.StringIO(run("tratr", "--columns").output))) == [
        {
            "name": "tratr",
            "key": "range_ratio",
            "output": "own.1h.range_ratio.430",
            "form": "value",
            "parameter": "20",
            "label": "true range",
        }
    ]


def test_what_a_bundle_of_ours_needs() -> None:
    ran = run("--bundle", "ES")
    assert ran.exit_code == 0
    assert "28 features of v2, 28 available" in ran.output
    assert "  own   1h   600\n" in ran.output
    assert ran.output.endswith("populations: atrz, ibs, rsi, volz\n")
    assert isinstance(run("--bundle", "XX").exception, OperatorError)


def test_one_name_as_a_bundle_asks_for_it() -> None:
    lines = run("--bundle", "ES").output.splitlines()
    (third,) = [line.split()[0] for line in lines[3:4]]
    ran = run(third, "--bundle", "ES")
    said = ran.output.splitlines()
    assert (ran.exit_code, said[0].split(": ")[1]) == (0, "feature 3 of 28, of v2")
    assert said[1:3] == run(third).output.splitlines()[:2]
    assert "used by     ES" in said
    columns = list(csv.DictReader(io.StringIO(run(third, "--bundle", "ES", "--columns").output)))
    assert [row["name"] for row in columns] == [third]
    (unnamed, *_) = sorted(FEATURES.keys() - {line.split()[0] for line in lines if line.startswith("  ")})
    refused = run(unnamed, "--bundle", "ES").exception
    assert isinstance(refused, OperatorError)
    assert (refused.exit_code, refused.what) == (2, f"the bundle of ES does not name {unnamed!r}")


def test_a_file_that_describes_no_bundle_is_refused(tmp_path: Path) -> None:
    for name, text, words in (
        ("ES_best.json", "[]", "is no description"),
        ("ES_best.json", '{"Features": ["ibs"]}', "is no description"),
        ("ES_best.json", '{"Features": 3, "Prod_Threshold": 0.5}', "features: expected list, got 3"),
        ("ES_best.json", '{"Features": "ibs", "Prod_Threshold": 0.5}', "features: expected list, got 'ibs'"),
        ("ES_best.json", "{", "is no JSON"),
        ("ES_best.json", "version https://git-lfs.github.com/spec/v1\n", "git-LFS pointer"),
        ("manifest.yml", "format_version: 1\n", "missing or unknown"),
        ("manifest.yml", "[", "not YAML"),
    ):
        place = tmp_path / name
        place.write_text(text)
        refused = run("--bundle", str(place)).exception
        assert isinstance(refused, OperatorError), text
        assert (refused.exit_code, words in refused.what, bool(refused.fix)) == (2, True, True), refused


@pytest.mark.real_data
def test_a_description_of_the_predecessor_that_needs_vix_is_said_to_lack_it() -> None:
    ran = run("--bundle", str(reference("bundles/6B_best.json")))
    assert ran.exit_code == 1
    assert "30 features of legacy-1, 29 available" in ran.output
    (lacking,) = [line.split()[0] for line in ran.output.splitlines() if "UNAVAILABLE: needs VIX" in line]
    alone = run(lacking, "--bundle", str(reference("bundles/6B_best.json")))
    assert (alone.exit_code, "UNAVAILABLE: needs VIX" in alone.output) == (1, True)
    assert "populations: atrz, daily_ibs, datrz, ibs, pair_ibs, pair_z, rsi, volz" in ran.output
    assert run("--bundle", str(reference("bundles/YM_best.json"))).exit_code == 0
    names = json.loads(reference("bundles/YM_best.json").read_text())["Features"]
    of_bundle = run("--columns", "--bundle", str(reference("bundles/YM_best.json"))).output
    assert [row["name"] for row in csv.DictReader(io.StringIO(of_bundle))] == names


# ------------------------------------------------------------------- docs


def documented() -> Iterator[str]:
    """The rows of docs/features.md, as the registry says them."""
    for name, feature in FEATURES.items():
        if feature.form == "value" and name not in CROSS:
            cells = (name, feature.formula.rstrip("."), reads(feature), str(feature.window), feature.unit)
            legacy = READ_HOURS.get(name)
            yield _row(*cells, band_words(feature.default_band), f"`{legacy}`" if legacy else "")
    for base, second in SECOND_NAMES.items():
        yield _row(
            f"{base}_pct",
            f"`{second}`",
            base,
            str(BASES[base].window),
            "day" if BASES[base].timeframe == "1d" else "hour",
        )
    for pair in PRODUCTS:
        yield _row("x".join(pair), " × ".join(f"`{base}_pct`" for base in pair))


def _row(name: str, *cells: str) -> str:
    return "| " + " | ".join((f"`{name}`", *(cell.replace("|", "\\|") for cell in cells))) + " |"


def test_the_documented_tables_are_the_registry() -> None:
    """To write them anew: `PYTHONPATH=. python tests/actors/test_feature_commands.py`."""
    written = [line for line in DOCS.read_text().splitlines() if line.startswith("| `") and not line.startswith("| `<")]
    assert written == list(documented())
    for name in UNAVAILABLE:
        assert name in DOCS.read_text() or name.startswith("vix_")


if __name__ == "__main__":
    print("\n".join(documented()))
