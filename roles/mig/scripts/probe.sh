# `driver`, and what the agent says of the layout where it is installed.
command -v nvidia-smi >/dev/null && echo driver=true || echo driver=false
if [ -x /opt/metalhub/mig/agent ] && [ -e /etc/metalhub/mig/agent.json ]; then
  /opt/metalhub/mig/agent check 2>/dev/null || printf 'state=unreadable\nasked=null\n'
else
  printf 'state=none\nasked=null\n'
fi
