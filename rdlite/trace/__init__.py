"""What a model would have said after every core step, as data, as a picture and as a page."""
