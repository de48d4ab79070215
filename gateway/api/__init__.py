"""The HTTP API, and the only place that knows Litestar: routes, wire shapes, problems, callers."""
