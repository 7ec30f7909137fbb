"""Commands over the clients; imports stay light so that `plait --help` answers at once."""
