"""The pure core: task life, routing, pacing, admission, pricing. Time and chance are passed in; no I/O."""
