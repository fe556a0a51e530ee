# The entry of the node $node, on a manager: whether it takes tasks, and the mark of a run that has not finished.
docker node inspect "$node" --format 'availability={{.Spec.Availability}}{{println}}mark={{index .Spec.Labels "metalhub.mig"}}'
