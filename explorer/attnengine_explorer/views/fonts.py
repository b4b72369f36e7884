"""Fonts of what is drawn on canvas, where the style sheet does not reach."""

MONO = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace"
