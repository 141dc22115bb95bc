"""/v1/responses: answers as lists of items, kept so that others can follow them."""
