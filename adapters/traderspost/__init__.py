"""TradersPost: the message of an order, the HTTP way out, and a local server shaped like theirs."""
