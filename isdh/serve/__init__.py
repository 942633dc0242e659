"""Search over HTTP and on a page: the champion of the registry and the codes that it made."""
