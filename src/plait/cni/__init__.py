"""The CNI protocol: calls of container runtimes turned into verbs of the agent.

    attachment      a call as an endpoint of the agent's, and its endpoint as a result; pure
    checking        what a result promised, and what the agent holds; pure
    refusals        the agent's refusals as errors of CNI; pure
    order           which of two calls for one attachment is out of date
    kept            DELs that the shim kept on disk while the agent was down
    plugin, route   the verbs; the path of the agent's socket at which the shim asks for them
    conflist        the configuration that is installed; pure
    install         shim and configuration on this host: put there, looked at, taken away

Touches neither kernel nor store.
"""
