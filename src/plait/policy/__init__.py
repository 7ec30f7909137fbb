"""What policies mean: to one host's kernel, and to people who ask. No nft words and no IO.

The meaning itself stands in `plait.model.policies`. It is worked out twice, by code that shares
nothing, so that each checks the other: compiled to a ruleset, which kernels enforce, and evaluated
from the objects, which answers questions. Whom selectors mean is `plait.selection`'s. In the order
in which one reads them:

Accepting policies
    validate                          what policies must satisfy, whatever else there is
    fields, kubernetes, core_v1       Kubernetes' manifests read: policies, and what they look at
Compiling: objects -> `Ruleset`
    understand                        a peer or a port, made comparable
    compile, classes, opaque_names    a policy to chains; those of an endpoint; what they are called
    named_sets, engine                what sets hold; all of it, kept up to date for one host
    walk                              what a ruleset does with a packet, without a kernel
Evaluating: objects, flow -> verdict
    world, flow                       the objects, indexed; what they are asked about
    evaluate, evaluate_rule, reach    tier by tier; one rule; what the networks allow before
Asking: worlds -> answers
    reference, portspec, verbs        how a command names a side and a port; what it writes
    verb_effects                      what follows from that
    questions, find_parties           which ports, between whom; who is meant
    local_names                       names with dots that are ours
    find_services                     who answers where a Service is meant
    find_policy, words                which policy is meant; all of it in words
    explain, remedies                 why; what would change the answer
    matrix, preview, preview_places   who reaches whom; what a change changes; where one must look
    expectations                      tests of policies
    flow_records, workloads, learn    flows that were seen; who are replicas; policies of both
"""
