"""Many hosts on one machine, made of namespaces: the place to try things, and the test bed."""
