"""What a recorded session comes to: its counts, its chain's head, and the positions that its fold ends with."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from actors.machines import MachineSet
from actors.opening import opening_of
from actors.veto_models import find_models
from actors.wiring import machine_parts
from adapters.sqlite.codec import Codec
from adapters.sqlite.journal import JournalFile


def fold(path: Path) -> dict[str, Any]:
    """Verify the file's chain and fold it through the machines."""
    with JournalFile(path, Codec()) as journal:
        journal.verify()
        head = journal.head()
        machines = MachineSet(machine_parts(find_models(opening_of(journal).models, path.parent)))
        types: Counter[str] = Counter()
        for envelope in journal.envelopes():
            types[envelope.type] += 1
            machines.handle(envelope)
    execution = machines.execution
    return {
        "head": head.hash.hex(),
        "status": head.status,
        "events": dict(sorted(types.items())),
        "positions": [
            {"root": held.root, "contract": held.contract, "quantity": held.quantity, "price": held.price}
            for held in execution.positions
        ],
        "orders": {order.signal_id: order.state.value for order in execution.orders},
        "realised_pnl": str(execution.realised_pnl),
    }
