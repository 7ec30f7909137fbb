"""One per host, and the only writer of that host's kernel. In the order in which one reads it:

What it is made of
    agent, doors, fake          the parts put together; the doors they act through; all in memory
Deciding
    state, snapshot, cache      what is known; the network as last seen; that on disk
    desired/                    from that to HostState, pure
    loop, turns                 the only scheduler; what a turn compares and holds back
    programmers/                one for each part of HostState: observe, plan, apply
    watchers, underlay          noticing what others change; which interface carries the network
Endpoints of this host
    api, service                the socket; its verbs put together: what follows
    attaching, checking         endpoints come, change and go; what the kernel lacks of one
    allocating, answers         addresses for those who ask; how this host's agent is
    pods                        endpoints follow what an orchestrator says of them
    checks, refusals            whether words are fit to be names; what several verbs refuse
    records, journal, ledger    what must not be forgotten: written, then counted
    addresses, ports            addresses given out; published ports
    blocks, block_writes        blocks of addresses; what the server is told of them
    sync                        in step with the server
    failpoints, restore         where a test may kill it; what sysctls were before us
Policies beside the loop
    policing                    put together: what follows
    flow_ender, denied_flows    ends flows; which ones, pure
    domains                     names outside that policies open
    tracing                     what the kernel's own rules would do with a flow
What is told
    health_ports                whether Services have backends here, to balancers outside
    flows                       put together: what follows
    flowlog, flowfold, whois    packets to records; fewer of them; whose an address is
    rulecounts, flowship        the rules' counters; records and counts to the server
    metrics, report             for Prometheus; for people
"""
