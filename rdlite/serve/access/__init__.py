"""Who may call a server, how much they may ask of it, and what is written down about it."""
