"""The server behind `rdlite serve`: an OpenAI-compatible API and a page, over one model."""
