"""What survives: every SQL statement once (`store`), a thin driver per database, numbered migrations."""
