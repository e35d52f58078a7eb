"""Traces and metrics over OTLP, by the SDK of OpenTelemetry. Imported with --otel only."""
