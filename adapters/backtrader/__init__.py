"""Backtrader: the stepped engine, its feeds, the journal-driven broker and the IBS strategy.

The only package that imports `backtrader`. The actors use `engine.build_engine` and
nothing else; a plain backtest uses `feeds.BarFeed` and `ibs_strategy.IbsStrategy`.
"""
