"""Who is meant: endpoints and nodes, selectors over them, ranges of addresses. Pure; what `policy`
and `services` both stand on. In the order in which one reads it:

    parties           who takes part, with all labels
    terms, ranges     selectors and CIDRs, made comparable
    selector_index    who is selected by what, kept up to date
"""
