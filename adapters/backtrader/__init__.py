"""Backtrader: the stepped engine, its feeds, the journal-driven broker and the IBS strategy.

The only package that imports `backtrader`. The actors use `engine.build_engine` and
nothing else; a plain backtest uses `feeds.BarFeed` and `ibs_strategy.IbsStrategy`.
"""

import sys

if "backtrader" not in sys.modules and "talib" not in sys.modules:
    # Where TA-Lib is installed Backtrader wraps all of it at import, and pandas comes with it: a second of CPU and
    # 80 MB at every start, for indicators that nothing here uses.
    sys.modules["talib"] = None  # type: ignore[assignment]  # "not there", in the words of the import system
    try:
        import backtrader  # noqa: F401
    finally:
        del sys.modules["talib"]
