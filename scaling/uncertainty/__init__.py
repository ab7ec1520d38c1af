"""How sure a fit is: covariance and delta method, bootstrap, profile likelihood."""
