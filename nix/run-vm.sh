# shellcheck shell=bash
# What `nix run .#lab-vm` runs: says beforehand what QEMU would only fail on, then starts the VM. The flake sets
# VM_RUNNER, VM_PORTS, VM_MEMORY_MIB and VM_ENDPOINTS, and `set -euo pipefail`.
state=${XDG_STATE_HOME:-${HOME:?}/.local/state}/streamlab/vm
mkdir -p "$state"
say() { printf 'lab-vm: %s\n' "$*" >&2; }

taken=
for port in $VM_PORTS; do
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then taken="$taken $port"; fi
done
if [ -n "$taken" ]; then
  say "these ports of this machine are taken:$taken"
  say "end what holds them (./lab down for a lab that is up; ./lab doctor and ss -ltnp name the programs) and start again"
  exit 1
fi

if [ ! -e /dev/kvm ]; then
  say "no /dev/kvm: QEMU emulates the processor. That is many times slower, and services may pass their deadlines"
elif [ ! -w /dev/kvm ]; then
  say "/dev/kvm is not open to you, so QEMU emulates the processor, many times slower: sudo usermod -aG kvm \"\$USER\""
fi

available=
while read -r key value _; do
  if [ "$key" = MemAvailable: ]; then available=$((value / 1024)); fi
done </proc/meminfo
if [ -n "$available" ] && [ "$available" -lt "$VM_MEMORY_MIB" ]; then
  say "this machine has $available MiB free and the VM may use $VM_MEMORY_MIB MiB: it may swap, or end something"
fi

cp -f "$VM_ENDPOINTS" "$state/endpoints.json"
chmod 644 "$state/endpoints.json"
export NIX_DISK_IMAGE="${NIX_DISK_IMAGE:-$state/disk.qcow2}"
[ -e "$NIX_DISK_IMAGE" ] ||
  say "the first start downloads gigabytes of images before anything answers; the console names each one"
say "disk: $NIX_DISK_IMAGE (remove it to start from nothing)"
say "the console says 'every service of the lab … is ready'. Then, in a checkout on this machine:"
say "  LAB_ATTACH=$state/endpoints.json cargo test --test spec flow::"
say "poweroff ends the VM; Ctrl-A X ends QEMU at once"
exec "$VM_RUNNER" "$@"
