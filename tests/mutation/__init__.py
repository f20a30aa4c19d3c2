"""Mutation testing: small changes of the code, and whether a test notices each (`make mutants`)."""
