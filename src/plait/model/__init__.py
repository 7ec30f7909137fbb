"""The nouns: frozen typed objects, errors and the waist (`HostState`).

Everything here is data. Nothing here does IO, reads a clock or keeps state beyond a value of its
own, and every other package may import it.

Objects of the API
    meta, objects, policies         what all have; the kinds; those that rule traffic, with meaning
    services, pods, ports           one address for many; what orchestrators say; ports of endpoints
    selectors, portnames, syntax    label selectors; names of ports; what a single field may hold
    dnsnames                        other people's names as DNS has them
    errors                          refusals with a stable code
The waist
    waist, hoststate, ruleset       common options; all of a host's kernel; its part of policies
    service_table                   its part of services
    members, entries                sets and mappings that know their last changes
    marks                           how ours is recognised
The flow log
    flows, flowring, traces         records and counts; a bounded log of them; `plait why --live`
A host
    config, paths                   what is decided once; where things are kept
"""
