"""The published claim of each training method, tried in miniature.

`python -m examples.claims` (or `make claims`) trains small models on two CPU cores and writes
`examples/results/claims.md`: what a paper claims, what came out here, and whether it holds.

A file in `methods` states the claims of one method; it is found by being there. `claim` says
what a claim is and how a verdict is computed, `settings` and `training` train small models,
`rows` keeps results between runs, `report` writes the table.
"""
