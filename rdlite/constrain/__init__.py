"""Which tokens a constraint leaves: JSON schemas, regular expressions, grammars."""
