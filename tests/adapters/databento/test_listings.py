"""Instruments as a DBN file states them: by the mappings of its header, or by definition records."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import databento as db
import pytest
from databento_dbn import InstrumentClass, InstrumentDefMsg, Metadata, Schema, SecurityUpdateAction, SType

from adapters.databento.listings import listings_of, read_definitions
from domain.allow_list import Listing, allow_list
from domain.errors import OperatorError
from domain.units import Price
from tests.builders import traded_root

DATE = dt.date(2025, 10, 22)
MIDNIGHT = 1_761_091_200 * 10**9  # 2025-10-22T00:00Z


def header(schema: str = "definition") -> bytes:
    metadata = Metadata(
        dataset="GLBX.MDP3", start=MIDNIGHT, end=None, stype_in=SType.PARENT, stype_out=SType.INSTRUMENT_ID,
        schema=Schema.from_str(schema), symbols=["MES.FUT"], mappings=[],
    )  # fmt: skip
    return bytes(metadata.encode())


def definition(key: int, raw_symbol: str, kind: InstrumentClass, *, ts: int = MIDNIGHT, **sizes: int) -> bytes:
    record = InstrumentDefMsg(
        publisher_id=1, instrument_id=key, ts_event=ts, ts_recv=ts, display_factor=10**9, raw_symbol=raw_symbol,
        asset="MES", security_type="FUT", instrument_class=kind, security_update_action=SecurityUpdateAction.ADD,
        min_price_increment=sizes.get("tick", 250_000_000), unit_of_measure_qty=sizes.get("quantity", 5 * 10**9),
    )  # fmt: skip
    return bytes(record)


FUTURE, SPREAD = InstrumentClass.FUTURE, InstrumentClass.FUTURE_SPREAD


def test_definition_records_become_listings_of_their_day(tmp_path: Path) -> None:
    path = tmp_path / "definitions.dbn"
    last = MIDNIGHT + 86_400 * 10**9 - 1
    undefined = 2**63 - 1
    path.write_bytes(
        header()
        + definition(1, "MESZ5", FUTURE)
        + definition(2, "MESZ5-MESH6", SPREAD, tick=50_000_000, ts=last)
        + definition(3, "MESH6", FUTURE, tick=undefined, quantity=undefined, ts=last + 1)
    )
    following = DATE + dt.timedelta(days=1)
    sizes = {"tick_size": Price(250_000_000), "multiplier": Decimal(5)}
    assert read_definitions(path) == (
        Listing(instrument_id=1, raw_symbol="MESZ5", start=DATE, end=following, instrument_class="F", **sizes),
        Listing(instrument_id=2, raw_symbol="MESZ5-MESH6", start=DATE, end=following, instrument_class="S",
                tick_size=Price(50_000_000), multiplier=Decimal(5)),
        Listing(instrument_id=3, raw_symbol="MESH6", start=following, end=following + dt.timedelta(days=1),
                instrument_class="F"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda raw: b"", "empty"),
        (lambda raw: b"no DBN file at all", "compression"),
        (lambda raw: raw[:-7], "truncated"),
        (lambda raw: header("trades"), "schema trades"),
    ],
    ids=["empty", "other", "cut off", "trades"],
)
def test_a_file_that_is_no_definition_file_is_refused(
    tmp_path: Path, damage: Callable[[bytes], bytes], complaint: str
) -> None:
    path = tmp_path / "definitions.dbn"
    path.write_bytes(damage(header() + definition(1, "MESZ5", FUTURE)))
    with pytest.raises(OperatorError, match=complaint) as caught:
        read_definitions(path)
    assert caught.value.where == str(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="there is no such file") as caught:
        read_definitions(tmp_path / "nowhere.dbn")
    assert caught.value.where == str(tmp_path / "nowhere.dbn")


@pytest.mark.real_data
def test_the_mappings_of_a_real_file_are_its_contracts_and_their_dates() -> None:
    path = Path(__file__).resolve().parents[4] / "shared" / "market" / "GC.ohlcv-1m.20131007-11.dbn.zst"
    if not path.exists():
        pytest.skip(f"real market data not found: ../shared/market/{path.name}")
    store = db.DBNStore.from_file(path)
    rows = store.to_ndarray()
    found = allow_list(listings_of(store.metadata), [traded_root("GC")])
    assert {c.raw_symbol for c in found.contracts} == set(store.metadata.mappings)
    places = found.places(rows["instrument_id"], rows["ts_event"])
    assert (places >= 0).all()
    front = next(place for place, c in enumerate(found.contracts) if c.raw_symbol == "GCZ3")
    ids = {int(interval["symbol"]) for interval in store.metadata.mappings["GCZ3"]}
    assert set(rows["instrument_id"][places == front].tolist()) == ids
    assert (places[rows["ts_event"] >= 0] >= 0).all()
    assert allow_list(listings_of(store.metadata), [traded_root("ES")]).contracts == ()
