"""One file per method; each lists what its papers claim as `CLAIMS`, and is found by being here."""
