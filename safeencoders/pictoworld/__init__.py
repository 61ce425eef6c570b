"""The embedded default: a world of pictograms small enough to learn, and the models that learnt it."""
