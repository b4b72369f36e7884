"""Page view 4, Sentence."""

from __future__ import annotations

from attnengine_explorer.views import PageView


class SentencePage(PageView):
    """Its place in the frame, still empty."""
