"""How the world's own models are fitted from nothing."""
