"""The nouns: frozen typed objects, errors and the waist (`HostState`).

Everything here is data. Nothing here does IO, reads a clock or keeps state, and every other
package may import it.
"""
