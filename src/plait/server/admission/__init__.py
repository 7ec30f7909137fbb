"""Admission: what each kind must satisfy, and what the server fills in. Pure.

`table.admit` takes the object as sent, the object there is, and the state; it returns the
object to store and what must happen with it, or raises `PlaitError`. A kind is one file with
`admit` and `remove`, and a row in the table.
"""
