"""How it looks: colours and figure defaults (colours.py), the page's frame (page.html) and its style (style.css)."""
