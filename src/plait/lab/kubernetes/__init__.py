"""A real Kubernetes cluster on the hosts of a lab: Debian's etcd and containerd, Kubernetes 1.20.

The first host runs the control plane, beside Plait's server; each node runs containerd and a
kubelet, whose CNI configuration `plait cni install` writes. There is no kube-proxy and no cluster
DNS: Services and names are Plait's. Everything that one of these programs writes is on the host's
own directories, so that it stays through `plait lab fault restart` and goes with the lab.

From the bottom:

- `programs`: where `scripts/kube` has put Kubernetes
- `layout`: addresses, and the files of a host, under the names that Kubernetes' tools give them
- `pki`, `credentials`: an authority of the lab's, its certificates, kubeconfig files
- `images`: the images that containers are made of, as archives for containerd
- `control_plane`, `node`: configuration and command lines of each program; pure
- `keeper`: the process of a host that runs the programs and starts again what dies
- `cluster`: the cluster of a lab, up and down, and the way to ask it things
"""
