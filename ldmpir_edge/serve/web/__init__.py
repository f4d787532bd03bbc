"""The HTTP door: the API, the status page and what monitoring asks for."""
