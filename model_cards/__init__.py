"""Cards: the README.md that the Hub shows for a model, a dataset and the whole collection, made from what they hold."""
