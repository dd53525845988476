"""Shared code of both servers: guards against other sites and large bodies, images, the socket."""
