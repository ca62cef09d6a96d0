"""Records that outlive an exchange: small async interfaces, and memory behind them."""
