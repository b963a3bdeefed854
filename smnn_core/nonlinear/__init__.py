"""One Gauss-Newton step of a fit on a given grid, and its derivatives."""
