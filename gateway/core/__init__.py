"""The pure core: task life, routing, pacing, admission, pricing. Time and randomness are passed in; no I/O here."""
