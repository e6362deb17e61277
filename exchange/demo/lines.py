"""How the demo's clients reach its servers: nothing of it leaves this machine."""

import ssl

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Empty: to load the system's roots for each request takes longer than the request."""
