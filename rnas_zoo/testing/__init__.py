"""A local stand-in for the Hub, so that the real client can be tested without the real Hub."""
