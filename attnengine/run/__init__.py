"""A run: the plan, the loop over batches, the sample, the shards, and the tables at the end."""
