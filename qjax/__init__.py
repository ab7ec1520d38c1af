"""Low-precision numerics for JAX: formats, casts, contractions and recipes."""
