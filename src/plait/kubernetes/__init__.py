"""The connector to Kubernetes: what an API server says becomes objects of Plait's server, and what
Plait knows is told to Kubernetes. It touches no host; nodes need no credentials of Kubernetes.

In the order in which one reads it:

    objects, kinds             Kubernetes' objects and kinds, as far as they are used
    kubeconfig, credentials    how an API server is reached, and who asks
    api, refusals              the client of an API server
    discovery, decoding        which version is served; bytes to objects
    replica, reflector         a copy of all objects of a kind, kept up to date for ever

    marks                      how the connector knows what it wrote
    hosts                      which of our Nodes a node of Kubernetes is
    services, policies         Services, EndpointSlices and policies as ours
    translate                  every kind as ours
    wanted, held               what Plait's server should have, and what it has
    plan, due                  what follows for one key, and in which order
    writes                     the door to Plait's server
    nodes, balancers           what Kubernetes is told: taints, conditions, addresses
    feedback                   the door into Kubernetes
    election                   which of several connectors writes
    controller                 all of it together
    token_end                  what it says before its token for Plait's server ends
    report, health             what the connector says of itself

    uninstall                  everything back
    manifests                  deploy/kubernetes, filled in and applied

    fake_server, fake_store, fake_watch, fake_forms, fake_faults
                               an API server in memory that fails on request
"""
