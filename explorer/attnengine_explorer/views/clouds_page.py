"""Page view 2, Clouds."""

from __future__ import annotations

from attnengine_explorer.views import PageView


class CloudsPage(PageView):
    """Its place in the frame, still empty."""
