"""Ten problems of the PEtab benchmark collection, and what finds their parameters; see `__main__`."""
