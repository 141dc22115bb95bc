"""Files of prompts answered: read in order, worked on together, written whole, resumed."""
