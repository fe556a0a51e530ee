#!/bin/sh
# Makes a machine that looks as if it had two H100 and an NVSwitch: a tree like /sys, an apt repository with packages of NVIDIA's names,
# and programs in place of the kernel's tools. The module "loads" by modprobe into that tree.
set -eu
root=/opt/gpu-machine
mkdir -p "$root/sys/module" "$root/repository"
add() {
  here=$root/sys/bus/pci/devices/$1
  mkdir -p "$here"
  echo 0x10de > "$here/vendor"
  echo "$2" > "$here/class"
  echo "$3" > "$here/device"
}
add 0000:17:00.0 0x030200 0x2330
add 0000:3d:00.0 0x030200 0x2330
add 0000:01:00.0 0x068000 0x22a3

tool() {
  printf '#!/bin/sh\n%s\n' "$2" > "/usr/local/sbin/$1"
  chmod 0755 "/usr/local/sbin/$1"
}
tool update-initramfs :
tool modinfo 'dpkg-query -W -f="\${Version}" nvidia-open | sed "s/-.*//"'
tool modprobe "mkdir -p $root/sys/module/nvidia && modinfo > $root/sys/module/nvidia/version"

# package name, version, [unit]...: each unit is a service that stays active, or a path.
package() {
  name=$1 version=$2
  shift 2
  build=$(mktemp -d)
  mkdir -p "$build/DEBIAN" "$build/usr/lib/systemd/system" "$build/usr/bin" "$build/usr/share/doc/$name"
  # dpkg lets packages disappear that have no file of their own.
  echo test > "$build/usr/share/doc/$name/copyright"
  printf 'Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: test <test@localhost>\nDescription: test\n' "$name" "$version" > "$build/DEBIAN/control"
  for item; do
    case $item in
      *.service) printf '[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n' > "$build/usr/lib/systemd/system/$item" ;;
      *.path) printf '[Path]\nPathChanged=/usr/bin/nvidia-ctk\n[Install]\nWantedBy=multi-user.target\n' > "$build/usr/lib/systemd/system/$item" ;;
      nvidia-container-runtime) printf '#!/bin/sh\nexec runc "$@"\n' > "$build/usr/bin/$item" ;;
      *) printf '#!/bin/sh\nexit 0\n' > "$build/usr/bin/$item" ;;
    esac
  done
  find "$build/usr/bin" -type f -exec chmod 0755 {} +
  dpkg-deb --root-owner-group -b "$build" "$root/repository/${name}_$version.deb" > /dev/null
  rm -r "$build"
}
package "linux-headers-$(uname -r)" 6.0-1
package nvidia-open 580.95.05-1
package nvidia-open 590.44.01-1
package nvidia-persistenced 580.95.05-1 nvidia-persistenced.service
package nvidia-fabricmanager 580.95.05-1 nvidia-fabricmanager.service
package nvidia-fabricmanager 580.105.08-1 nvidia-fabricmanager.service
package nvidia-container-toolkit 1.19.0-1
package nvidia-container-toolkit-base 1.19.0-1 nvidia-container-runtime nvidia-ctk nvidia-cdi-refresh.service nvidia-cdi-refresh.path
package libnvidia-container-tools 1.19.0-1
package libnvidia-container1 1.19.0-1
cd "$root/repository"
for file in *.deb; do
  dpkg-deb -f "$file"
  printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$file" "$(stat -c %s "$file")" "$(sha256sum "$file" | cut -d' ' -f1)"
done > Packages
echo "deb [trusted=yes] file:$root/repository ./" > /etc/apt/sources.list.d/gpu-machine.list
apt-get update -qq -o Dir::Etc::sourcelist=sources.list.d/gpu-machine.list -o Dir::Etc::sourceparts=- -o APT::Get::List-Cleanup=0
mkdir -p /run/cdi
echo "{}" > /run/cdi/nvidia.yaml
