"""Services: objects in, `ServiceTable` out. Pure; knows no nft words and does no IO.

The meaning itself stands in `plait.model.services`. In the order in which one reads them:

    frontends     where a Service is called, and by whom
    backends      who answers for it: endpoints, written down, or told by an orchestrator
    standing      whether one gets new flows
    roster        who is there, filed for those who ask
    choose        which of them a flow gets on this host
    engine        all of it, kept up to date for one host
    kubernetes    Kubernetes' manifests of Services and EndpointSlices, read
"""
