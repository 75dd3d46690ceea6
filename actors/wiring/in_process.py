"""A whole session in one thread, for tests, trials and training."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from actors.carry import fresh_state
from actors.in_process import Answer, InProcessSystem, accept
from actors.machines import MachineParts
from actors.veto_models import record_of
from actors.wiring import VERSION, code_digest, machine_parts
from adapters.calendar import CmeCalendar
from adapters.config import CONTRACT_MAP_FILE
from adapters.contract_map import load_contract_map
from adapters.memory import MemoryJournal
from adapters.sqlite.codec import Codec
from domain.events import HistoryLoaded, SessionOpened
from domain.ibs import StrategySettings
from domain.instruments import ResolvedContract
from domain.risk import RiskSettings
from domain.units import Nanos
from domain.veto import VetoModel


def in_process_system(
    contracts: Mapping[str, str],
    *,
    session: dt.date = dt.date(2024, 5, 1),
    risk: RiskSettings | None = None,
    history: HistoryLoaded | None = None,
    models: Mapping[str, VetoModel] | None = None,
    parts: MachineParts | None = None,
    seed: int = 0,
    answer: Answer = accept,
    **strategy: Any,
) -> InProcessSystem:
    """A paper session in one thread: `contracts` by root (`{"ES": "MESM4"}`), strategy parameters by name.

    The veto is on with `models` only, and without `history` there is none. `parts`: instead of the program's own.
    """
    traded = load_contract_map(CONTRACT_MAP_FILE).roots
    roots = tuple(root for root in traded if root.root in contracts)
    opened = SessionOpened(
        session=CmeCalendar().session_on(session, roots),
        segment=1,
        mode="paper",
        is_demo=False,
        account="in-process",
        clock="feed",
        seed=seed,
        version=VERSION,
        code_digest=code_digest(),
        config_digest="",
        libraries={},
        strategy=StrategySettings(**{"veto": models is not None, **strategy}),
        risk=risk or RiskSettings(),
        roots=roots,
        contracts=tuple(ResolvedContract(root=root, rank=0, raw_symbol=raw) for root, raw in contracts.items()),
        feed_start_ns=Nanos(0),
        models=tuple(record_of(model) for model in (models or {}).values()),
    )
    journal = MemoryJournal()
    return InProcessSystem(
        opened=opened,
        carried=fresh_state(),
        history=history or HistoryLoaded(tables=()),
        parts=parts or machine_parts(models or {}),
        codec=Codec(),
        writer=journal,
        reader=journal,
        seed=seed,
        answer=answer,
    )
