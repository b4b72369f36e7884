"""A regular package, so that no `tests` package of somebody else on the path is taken for this one."""
