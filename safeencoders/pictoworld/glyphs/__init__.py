"""What the world is drawn of: things, signs and places."""
