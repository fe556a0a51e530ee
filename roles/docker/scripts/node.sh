# What the engine says of its own node; a host without an engine is in no swarm.
facts=$(docker info --format '{{.Swarm.LocalNodeState}}|{{.Swarm.NodeID}}|{{.Swarm.ControlAvailable}}|{{.Name}}' 2>/dev/null)
IFS='|' read -r state id manages hostname <<X
$facts
X
echo "state=${state:-inactive}"
echo "id=$id"
echo "manages=${manages:-false}"
echo "hostname=${hostname:-$(hostname)}"
