"""Joint query–key clouds of attention heads: gauge, neighbours, layout, and how far each picture can be trusted."""
