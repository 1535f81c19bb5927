"""Circuit discovery: methods `(model, universe, data, **options) -> EdgeScores` and what is needed to judge them.
A method sees a model, the edges it has, and pairs of inputs; never the circuit."""
