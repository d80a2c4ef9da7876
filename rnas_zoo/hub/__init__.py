"""Release folders and their cards: exactly what a Hub repository holds."""
