"""When to stop running core steps: exit rules and the controllers that ask them.

Pure NumPy; knows no session.
"""
