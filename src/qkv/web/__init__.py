"""What both servers need: guards against other sites and large bodies, images, the socket."""
