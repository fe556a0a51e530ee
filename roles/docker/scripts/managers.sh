# The cluster as a manager sees it: `nodes` and `spec` as JSON, nothing where this host does not manage a swarm.
case $(docker info --format '{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}' 2>/dev/null) in
  "active true") ;;
  *) exit 0 ;;
esac
# After a start the managers need a moment to agree on a leader.
tries=0
until ids=$(docker node ls -q 2>/dev/null) && [ -n "$ids" ]; do
  tries=$((tries + 1))
  [ "$tries" -lt 100 ] || { echo "leaderless=true"; exit 0; }
  sleep 0.2
done
# shellcheck disable=SC2086 # one id a word
nodes=$(docker node inspect --format '{"id":{{json .ID}},"hostname":{{json .Description.Hostname}},"address":{{json .Status.Addr}},"role":{{json .Spec.Role}},"state":{{json .Status.State}},"availability":{{json .Spec.Availability}},"labels":{{json .Spec.Labels}}}' $ids | paste -sd, -)
echo "nodes=[$nodes]"
echo "spec=$(docker info --format '{{json .Swarm.Cluster.Spec}}')"
