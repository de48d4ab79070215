"""The loops that carry tasks to their end: claim, step, interpret, save; one file per kind of step."""
