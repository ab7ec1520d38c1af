"""Closed forms: what follows from a law's parameters by algebra, without a fit or a search.

Every function takes natural parameters by name, as ``FitResult.params`` or ``laws.published`` give
them, and raw units. They know no data and no laws; laws offer them as derived quantities.
"""
