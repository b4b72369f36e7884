"""What the statistics cost, measured against the strongest rivals; `attnengine bench` runs these from a checkout."""
