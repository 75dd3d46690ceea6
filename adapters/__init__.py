"""The edges: one package per outside world. They know the domain, not the actors, and not each other."""
