"""The loops that carry tasks to their end: one shape (claim, step, interpret, save), one file per kind of step."""
