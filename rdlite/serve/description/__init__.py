"""What /openapi.json says of the server: its paths, what they answer, and when they refuse."""
