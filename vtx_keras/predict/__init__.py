"""`vtx predict`: pictures from anywhere, many at once, past the bad ones; as text, JSON, CSV or a page."""
