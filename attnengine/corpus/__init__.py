"""From files to token windows: sources, documents, windows, token facts; deterministic, with provenance."""
