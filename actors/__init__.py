"""The pipeline: start reading here.

                    Databento                                     TradersPost webhook
                        | records                                        ^ HTTPS POST
                        v                                                |
    +-----------+  +--------------------+  +---------------+  +----------------+
    | feed      |  | bars               |  | strategy      |  | execution      |--> http_runner
    +-----+-----+  +----^----------+----+  +---^-------+---+  +---^--------+---+
          |             |          |           |       |          |        |
    ======v=============|==========v===========|=======v==========|========v====  sequencer
      TradesReceived ---+      SliceClosed ----+   OrderRequested +    OrderSubmitted, fills
    =============================================================================
                        journal/2024-05-01.db

Everything an actor acts on is first an event with a place in one total order
(`sequencer`). A *machine* (`bars`, `strategy`, `execution`, `roll_supervisor`) is a
deterministic function of that order; `actor` is the thin Pykka shell around one,
`supervisor` restarts it, and a restart is a catch-up from the journal. `feed` brings the
market in, `http_runner` takes orders out, `clock` ticks in real time. `live` runs
sessions from these parts, `opening` decides which file goes on, `replay` runs the same
machines in one thread over a recorded file and compares. `veto_models` finds the forests
that the strategy asks before it enters. `main` is the command line; it and the package
`wiring` alone name adapters.
"""
