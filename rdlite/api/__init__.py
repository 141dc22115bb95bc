"""What `import rdlite` offers: load, Model, Chat. Prints nothing."""
