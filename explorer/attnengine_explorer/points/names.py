"""What the state may say of clouds: names that need no run."""

from __future__ import annotations

#: Ways to colour points, and what the page calls them. The last three are of images.
COLOUR_BY = {
    "side": "side (query, key)",
    "position": "position in the window",
    "position_mod5": "position mod 5",
    "position_share": "position, share of the window",
    "frequency": "token frequency in the sample",
    "token_class": "token class",
    "norm": "length of the vector",
    "entropy": "entropy of the query's pattern, nats",
    "document": "document",
    "row": "row of the patch",
    "col": "column of the patch",
    "patch": "patch in reading order",
}
PROJECTIONS = ("layout", "pca")
LABELS = {"clusters": "clusters", "tokens": "tokens", "none": "no labels"}
SIZES = {"same": "all one size", "norm": "by length"}
