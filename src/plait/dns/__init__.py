"""The resolver of every host: answers for the whole network from memory, forwards the rest."""
