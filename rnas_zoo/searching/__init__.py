"""How a genotype is found: the supernet, discretisation, search methods, runs."""
