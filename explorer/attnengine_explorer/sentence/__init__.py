"""The numbers of a live sentence as its pictures need them. Knows arrays and records, neither Bokeh nor torch."""
