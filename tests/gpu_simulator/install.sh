#!/bin/sh
# Puts the simulated driver, from the directory of this file, where a host's real one would be.
set -eu
here=$(dirname "$(readlink -f "$0")")
for name in nvidia-smi nvidia-ctk gpu-simulator; do
  ln -sf "$here/$name" "/usr/bin/$name"
done
drop_in() {
  mkdir -p "/etc/systemd/system/$1.service.d"
  printf '[Service]\n%s\n' "$2" > "/etc/systemd/system/$1.service.d/simulator.conf"
}
# Its state lies in a file, where the real one has devices.
drop_in metalhub-mig ReadWritePaths=/var/lib/gpu-simulator
drop_in metalhub-mig-wait "ExecStart=
ExecStart=/bin/sh -c 'test -e /var/lib/gpu-simulator/state.json'"
