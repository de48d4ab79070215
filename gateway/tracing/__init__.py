"""Tracing by OpenTelemetry: nothing in here is imported unless `[tracing]` is configured."""
