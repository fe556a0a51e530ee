# `id`, the node of this host's engine, empty where it is in no swarm.
echo "id=$(docker info --format '{{.Swarm.NodeID}}' 2>/dev/null)"
